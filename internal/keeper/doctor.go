package keeper

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/zramfs/zramfs/internal/host"
)

const (
	doctorPause = time.Second // between two looks at what should not move
	doctorLooks = 3           // pairs of them, at most
)

// Diagnosis is what doctor finds about a mount. Its JSON form is what scripts
// read: fields are added, never renamed.
type Diagnosis struct {
	Mountpoint string         `json:"mountpoint"`
	Swap       bool           `json:"swap"`
	Guards     []GuardFinding `json:"guards"`
}

// GuardFinding is one guard as it was found.
type GuardFinding struct {
	Name  string     `json:"name"`
	State GuardState `json:"state"`
	Seen  string     `json:"seen"`
	Why   string     `json:"why"`  // what happens without it
	Todo  string     `json:"todo"` // what to do where it is missing
}

// Doctor checks every guard of a mount, and changes nothing. It takes about a
// second, three where something moves.
func Doctor(path string) (Diagnosis, error) {
	m, err := Find(path)
	if err != nil {
		return Diagnosis{}, err
	}
	if !host.Capable(host.CapSysAdmin) {
		return Diagnosis{}, Errorf(CodeNotPermitted, "doctor needs root (CAP_SYS_ADMIN), to look at the daemon's processes: use sudo")
	}
	return answered(m.Point, patience+2*doctorLooks*doctorPause, func() (Diagnosis, error) { return diagnose(m.Point) })
}

func diagnose(point string) (Diagnosis, error) {
	in, err := inspect(point)
	if err == nil {
		err = in.use()
	}
	if err != nil {
		return Diagnosis{}, err
	}
	state, err := readGuardState(guardStateDir)
	if err != nil {
		return Diagnosis{}, err
	}
	if swap, ok := state.Swaps[point]; ok && swap.Dev == in.dev {
		in.notes, in.pools = swap, state.Pools
	}
	if err := in.watch(); err != nil {
		return Diagnosis{}, err
	}
	d := Diagnosis{Mountpoint: point, Swap: in.swap > 0}
	for _, g := range guards() {
		f := finding{GuardIdle, "matters only while it is swap"}
		if !g.swapOnly || d.Swap {
			f = g.check(in)
		}
		if slices.Contains(in.notes.Without, g.name) {
			f.seen += " (left out by --without)"
		}
		d.Guards = append(d.Guards, GuardFinding{g.name, f.state, f.seen, g.why, g.todo})
	}
	return d, nil
}

// watch takes two samples, until nothing moves between them or it has looked
// often enough: a worker or standby that was just started settles.
func (in *inspection) watch() error {
	for range doctorLooks {
		if err := in.findProcesses(); err != nil {
			return err
		}
		var err error
		if in.before, err = in.sample(); err != nil {
			return err
		}
		time.Sleep(doctorPause)
		if in.after, err = in.sample(); err != nil {
			return err
		}
		if checkSteady(in).state == GuardPass && checkHeap(in).state == GuardPass {
			break
		}
	}
	return nil
}

// Failed says, as an error with an exit code, which guards are missing that
// this machine could have; nil if none is.
func (d *Diagnosis) Failed() error {
	var failed []string
	for _, g := range d.Guards {
		if g.State == GuardFail {
			failed = append(failed, g.Name)
		}
	}
	if len(failed) == 0 {
		return nil
	}
	return Errorf(CodeUnsafe, "%s: %d of %d guards failed: %s", d.Mountpoint, len(failed), len(d.Guards), strings.Join(failed, ", "))
}

// Text is a line for each guard, and what to know about those that are missing.
func (d *Diagnosis) Text() string {
	var b strings.Builder
	for _, g := range d.Guards {
		fmt.Fprintf(&b, "%-8s  %-15s  %s\n", g.State, g.Name, g.Seen)
		if g.State == GuardFail || g.State == GuardWarn {
			fmt.Fprintf(&b, "%27swhy: %s\n%27sdo: %s\n", "", g.Why, "", g.Todo)
		}
	}
	return b.String()
}
