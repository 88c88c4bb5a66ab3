package keeper

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/zramfs/zramfs/internal/host"
)

// inspection is what checks look at: a mount, its processes and devices.
// Everything is read by asking the kernel or the attributes; nothing that a
// process says about itself is believed where /proc says it too.
type inspection struct {
	point string
	dev   string // of the mount
	// device is what attributes are read of: zram0, or the lowest there is.
	device int
	facts  map[string]string // daemon_stat
	procs  []member
	loops  []string // loop devices on it
	swap   int64    // bytes of it that are swap now
	notes  guardedSwap
	pools  []string // of kworkers that serve loop devices

	before, after sample
}

// member is a process of the mount.
type member struct {
	name string
	pid  int
}

const (
	memberKeeper  = "keeper"
	memberWorker  = "worker"
	memberStandby = "standby"
)

// sample is what may not change while nothing is wrong.
type sample struct {
	memory  map[string]int64 // memory_stat
	threads map[int][]host.Thread
	at      int64 // CLOCK_MONOTONIC, ns
}

func inspect(point string) (*inspection, error) {
	dev, err := deviceOf(point)
	if err != nil {
		return nil, err
	}
	in := &inspection{point: point, dev: dev}
	ids, err := deviceIDs(point)
	if isDead(err) {
		return nil, &Error{CodeFailure, "the daemon of " + point + " is gone: zramfs umount clears the mount away", err}
	}
	if err != nil {
		return nil, err
	}
	if len(ids) == 0 {
		return nil, Errorf(CodeNoAttribute, "%s has no device left", point)
	}
	in.device = ids[0]
	text, err := os.ReadFile(in.attribute("zramfs/" + attrDaemon))
	if err != nil {
		return nil, err
	}
	in.facts = map[string]string{}
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		in.facts[key] = value
	}
	if err := in.findProcesses(); err != nil {
		return nil, err
	}
	if in.before, err = in.sample(); err != nil {
		return nil, err
	}
	in.after, err = in.sample()
	return in, err
}

// findProcesses finds keeper, worker and standby: the children of the keeper.
// A standby that is still getting ready is none yet.
func (in *inspection) findProcesses() error {
	d, err := readDaemon(in.point)
	if err != nil {
		return err
	}
	children, err := host.Children(d.Keeper)
	in.procs = []member{{memberKeeper, d.Keeper}, {memberWorker, d.Worker}}
	for _, pid := range children {
		if pid == d.Standby {
			in.procs = append(in.procs, member{memberStandby, pid})
		}
	}
	return err
}

// attribute is the file of an attribute of zram0, or of the lowest device.
func (in *inspection) attribute(name string) string {
	return filepath.Join(in.point, blockDir, "zram"+strconv.Itoa(in.device), name)
}

// use finds the loop devices of the mount and what of them is swap.
func (in *inspection) use() error {
	loops, err := host.LoopsBelow(in.point)
	if err != nil {
		return err
	}
	swaps, err := host.Swaps()
	for _, l := range loops {
		in.loops = append(in.loops, l.Path)
		for _, s := range swaps {
			if s.Path == l.Path {
				in.swap += s.Size
			}
		}
	}
	return err
}

func (in *inspection) sample() (sample, error) {
	text, err := os.ReadFile(in.attribute("zramfs/memory_stat"))
	if err != nil {
		return sample{}, err
	}
	s := sample{memory: pairs(string(text)), threads: map[int][]host.Thread{}, at: monotonic()}
	for _, p := range in.procs {
		threads, err := host.Threads(p.pid)
		if err != nil && !gone(err) {
			return sample{}, err
		}
		s.threads[p.pid] = threads
	}
	return s, nil
}

// each runs a check for every process and joins what was seen: the worst state
// is that of all.
func (in *inspection) each(check func(member) finding) finding {
	all := finding{state: GuardPass}
	var seen []string
	for _, p := range in.procs {
		f := check(p)
		seen = append(seen, p.name+" "+f.seen)
		if severity(f.state) > severity(all.state) {
			all.state = f.state
		}
	}
	all.seen = strings.Join(seen, "; ")
	return all
}

// severity orders the states, the worst last.
func severity(s GuardState) int {
	return slices.Index([]GuardState{GuardIdle, GuardPass, GuardUnknown, GuardWarn, GuardFail}, s)
}

// eachLoop is each, for the loop devices.
func (in *inspection) eachLoop(check func(path string) finding) finding {
	if len(in.loops) == 0 {
		return finding{GuardIdle, "no loop device is attached"}
	}
	all := finding{state: GuardPass}
	var seen []string
	first, others := map[string]string{}, map[string]int{}
	for _, path := range in.loops {
		f := check(path)
		if severity(f.state) > severity(all.state) {
			all.state = f.state
		}
		if first[f.seen] == "" {
			first[f.seen] = path
			seen = append(seen, f.seen)
		} else {
			others[f.seen]++
		}
	}
	for i, text := range seen {
		seen[i] = first[text] + " " + text
		if n := others[text]; n > 0 {
			seen[i] = fmt.Sprintf("%s and %d more %s", first[text], n, text)
		}
	}
	all.seen = strings.Join(seen, "; ")
	return all
}

// capable says whether the keeper may do what takes a capability: where it may
// not, what is missing cannot be had.
func (in *inspection) capable(capability int) bool {
	ok, err := host.ProcessCapable(in.procs[0].pid, capability)
	return err == nil && ok
}

// gone says whether an error means that a process ended while it was looked
// at: a worker may be replaced at any time.
func gone(err error) bool { return errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) }
