package keeper

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/zramfs/zramfs/internal/host"
)

// machineGuards are settings of the kernel that swapon changes and swapoff
// puts back.
func machineGuards() []guard {
	return []guard{
		{
			name: guardTimeouts, must: true, check: checkTimeouts,
			why:  "one request that is late ends the whole connection, and swap with it",
			todo: "set both to 0 with sysctl, then mount anew: a mount keeps the timeout that it began with",
		}, {
			name: guardBoost, must: true, optional: true, swapOnly: true, check: checkBoost, apply: applyBoost,
			why: "a boosted watermark lies far above what is free; the kernel's loop worker then searches for memory " +
				"for ever on behalf of a page that is being swapped out",
			todo: "use zramfs swapon, or sysctl vm.watermark_boost_factor=0",
		}, {
			name: guardMinFree, must: true, optional: true, swapOnly: true, check: checkMinFree, apply: applyMinFree,
			why:  "loop and FUSE allocate for every request, out of what lies below this mark and nothing else",
			todo: "use zramfs swapon, or raise it with sysctl vm.min_free_kbytes",
		}, {
			name: guardPageCluster, check: checkPageCluster,
			why: "2^N pages are read ahead at a fault. Advice for zram is 0. Through loop and FUSE a request costs more than " +
				"a page in it: with 0, reading in order took three times as long, and reading at random was no faster. " +
				"So it stays as it is",
			todo: "nothing",
		},
	}
}

func timeoutPaths() []string {
	return []string{sysctl("fs", "fuse", "default_request_timeout"), sysctl("fs", "fuse", "max_request_timeout")}
}

func checkTimeouts(*inspection) finding {
	var seen []string
	state := GuardPass
	for _, path := range timeoutPaths() {
		n, err := readNumber(path)
		switch {
		case gone(err):
			continue
		case err != nil:
			return unknown(err)
		case n != 0:
			state = GuardFail
		}
		seen = append(seen, fmt.Sprintf("%s %d", path, n))
	}
	if len(seen) == 0 {
		return pass("this kernel has none")
	}
	return finding{state, strings.Join(seen, ", ")}
}

// setting is the finding for a file that should hold a number.
func setting(path string, good func(n int64) bool, want string) finding {
	n, err := readNumber(path)
	switch {
	case gone(err):
		return pass("this kernel has none")
	case err != nil:
		return unknown(err)
	case good(n):
		return pass("%d", n)
	}
	if err := host.Writable(path); err != nil {
		return lack("%d, %s expected, and it cannot be set here: %v", n, want, err)
	}
	return fail("%d, %s expected", n, want)
}

func boostPath() string { return sysctl("vm", "watermark_boost_factor") }

func checkBoost(*inspection) finding {
	return setting(boostPath(), func(n int64) bool { return n == 0 }, "0")
}

func applyBoost(_ *inspection, s *guardState) error { return s.set(boostPath(), "0") }

// The free memory that is kept is minFreePermille of all, at most minFreeMost:
// what loop and FUSE take for the requests under way does not grow with the
// machine.
const (
	minFreePermille = 35
	minFreeMost     = 64 << 20
)

func minFreePath() string { return sysctl("vm", "min_free_kbytes") }

// wantMinFree is the least vm.min_free_kbytes for a machine with so much memory.
func wantMinFree(total int64) int64 {
	return min(total/1000*minFreePermille, minFreeMost) >> 10
}

func checkMinFree(*inspection) finding {
	total, err := host.TotalMemory()
	if err != nil {
		return unknown(err)
	}
	want := wantMinFree(total)
	f := setting(minFreePath(), func(n int64) bool { return n >= want }, fmt.Sprintf("%d or more", want))
	f.seen += " KiB of " + HumanSize(total)
	return f
}

func applyMinFree(_ *inspection, s *guardState) error {
	total, err := host.TotalMemory()
	if err != nil {
		return err
	}
	return s.set(minFreePath(), strconv.FormatInt(wantMinFree(total), 10))
}

func checkPageCluster(*inspection) finding {
	n, err := readNumber(sysctl("vm", "page-cluster"))
	if err != nil {
		return unknown(err)
	}
	return pass("%d: %d pages at a fault; left as it is", n, 1<<min(n, 62))
}

// findPools looks which pools of kworkers serve loop devices. A name tells the
// last work only, so it is asked right after there was some.
func (in *inspection) findPools(s *guardState) error {
	all, err := host.Kworkers()
	for _, w := range all {
		if strings.HasPrefix(w.Serves, "loop") && !slices.Contains(s.Pools, w.Pool) {
			s.Pools = append(s.Pools, w.Pool)
		}
	}
	in.pools = s.Pools
	return err
}

// loopWorkers lists the kworkers of those pools.
func (in *inspection) loopWorkers() ([]host.Kworker, error) {
	all, err := host.Kworkers()
	return slices.DeleteFunc(all, func(w host.Kworker) bool { return !slices.Contains(in.pools, w.Pool) }), err
}

func checkKworkers(in *inspection) finding {
	if len(in.loops) == 0 {
		return finding{GuardIdle, "no loop device is attached"}
	}
	workers, err := in.loopWorkers()
	if err != nil {
		return unknown(err)
	}
	first := 0
	for _, w := range workers {
		if w.Policy == unix.SCHED_FIFO {
			first++
		}
	}
	switch {
	case len(workers) == 0:
		return finding{GuardUnknown, "which kworkers serve the loop devices is not known"}
	case first == 0:
		return fail("none of %d runs SCHED_FIFO", len(workers))
	}
	// The kernel starts and ends them as it likes; two of a pool it keeps.
	return pass("%d of %d run SCHED_FIFO", first, len(workers))
}

func applyKworkers(in *inspection, s *guardState) error {
	if err := in.findPools(s); err != nil {
		return err
	}
	workers, err := in.loopWorkers()
	if err != nil {
		return err
	}
	workers = slices.DeleteFunc(workers, func(w host.Kworker) bool { return w.Policy != unix.SCHED_NORMAL })
	for _, w := range workers {
		if !slices.Contains(s.Kworkers, w.PID) {
			s.Kworkers = append(s.Kworkers, w.PID)
		}
	}
	if err := s.save(); err != nil {
		return err
	}
	for _, w := range workers {
		if err := host.SetPolicy(w.PID, unix.SCHED_FIFO, 1); err != nil && !gone(err) {
			return err
		}
	}
	return nil
}
