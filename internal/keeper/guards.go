package keeper

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/zramfs/zramfs/internal/host"
)

// Names of guards. Users give them to --without and read them in doctor's
// output: they are never changed, only added to.
const (
	guardLocked      = "locked"
	guardNoSwap      = "noswap"
	guardTables      = "tables"
	guardReserve     = "reserve"
	guardFlusher     = "io-flusher"
	guardOOM         = "oom-score"
	guardCgroup      = "cgroup"
	guardHeap        = "heap"
	guardSteady      = "steady"
	guardReaders     = "readers"
	guardResend      = "resend"
	guardStandby     = "standby"
	guardTimeouts    = "fuse-timeouts"
	guardBoost       = "watermark-boost"
	guardMinFree     = "min-free"
	guardPageCluster = "page-cluster"
	guardDirect      = "direct-io"
	guardStable      = "stable-writes"
	guardThrottle    = "wbt"
	guardDiscard     = "discard"
	guardWarm        = "warm"
	guardKworkers    = "kworkers"
	guardUpkeep      = "upkeep"
	guardFlight      = "in-flight"
)

// GuardState is how a guard was found.
type GuardState string

// The states. Only GuardFail is worth an exit code: it could be otherwise here.
const (
	GuardPass    GuardState = "pass"
	GuardFail    GuardState = "fail"
	GuardWarn    GuardState = "warn"     // not there, and cannot be had on this machine
	GuardUnknown GuardState = "unknown"  // cannot be told
	GuardIdle    GuardState = "not swap" // means something only while the disk is swap
)

// finding is what a check saw, with the figure.
type finding struct {
	state GuardState
	seen  string
}

func pass(format string, args ...any) finding {
	return finding{GuardPass, fmt.Sprintf(format, args...)}
}
func fail(format string, args ...any) finding {
	return finding{GuardFail, fmt.Sprintf(format, args...)}
}
func lack(format string, args ...any) finding {
	return finding{GuardWarn, fmt.Sprintf(format, args...)}
}
func unknown(err error) finding { return finding{GuardUnknown, err.Error()} }

// guard is one thing that keeps a machine alive that swaps on zramfs. The
// fields are immutable.
type guard struct {
	name string
	why  string // what happens without it
	todo string // what to do where it is missing
	// must: swapon refuses where it is missing and could be had.
	must bool
	// swapOnly: it means nothing until the disk is swap, and swapon sets it.
	swapOnly bool
	check    func(*inspection) finding
	// apply sets it, remembering in the state what it changes; nil: it is set
	// elsewhere, when the processes start or the loop device is attached.
	apply func(*inspection, *guardState) error
	// leave takes it away for --without where something else sets it; may be nil.
	leave func(*inspection) error
	// optional: --without may name it.
	optional bool
}

// guards lists all, in the order in which they are checked and set.
func guards() []guard {
	return slices.Concat(processGuards(), machineGuards(), deviceGuards(), watchdogGuards())
}

// checkWithout looks for names that are no guard, or none that can be left out.
func checkWithout(names []string) error {
	var optional []string
	for _, g := range guards() {
		if g.optional {
			optional = append(optional, g.name)
		}
	}
	for _, name := range names {
		if !slices.Contains(optional, name) {
			return Errorf(CodeUsage, "guard %q cannot be left out: expected some of %s", name, strings.Join(optional, ", "))
		}
	}
	return nil
}

// leavesOut says whether a guard is left out on purpose, to see what it is worth.
func (c *Config) leavesOut(guard string) bool { return slices.Contains(c.Without, guard) }

// ApplyGuards sets every guard that can be set, for a mount that is about to
// become swap on these loop devices: after they are attached, before mkswap
// and swapon. What it changes on the machine is remembered for UndoGuards. A
// guard that is missing although it could be had is an error, and everything
// is put back, unless force makes a warning of it. without names guards to
// leave out, for experiments.
func ApplyGuards(point string, loops []string, without []string, force bool) ([]string, error) {
	if err := checkWithout(without); err != nil {
		return nil, err
	}
	in, err := inspect(point)
	if err != nil {
		return nil, err
	}
	if !slices.Contains(without, guardStandby) {
		if err := awaitStandby(in, nil); err != nil { // it is looked at like the others
			return nil, err
		}
	}
	in.loops = loops
	state, err := openGuardState(guardStateDir)
	if err != nil {
		return nil, err
	}
	defer state.close()
	_ = state.forgetDead() // what cannot be put back of another's devices is no reason against this one
	state.Swaps[point] = guardedSwap{Dev: in.dev, Loops: loops, Without: without, Queues: state.Swaps[point].Queues}
	if err := state.save(); err != nil {
		return nil, err
	}
	var warnings, missing []string
	for _, g := range guards() {
		if slices.Contains(without, g.name) {
			warnings = append(warnings, fmt.Sprintf("guard %s: left out", g.name))
			if g.leave != nil {
				err = errors.Join(err, g.leave(in))
			}
			continue
		}
		f := g.ensure(in, state)
		switch {
		case f.state == GuardPass || f.state == GuardIdle:
		case f.state == GuardFail && g.must && !force:
			missing = append(missing, fmt.Sprintf("guard %s is missing: %s; %s", g.name, f.seen, g.todo))
		default:
			warnings = append(warnings, fmt.Sprintf("guard %s: %s", g.name, f.seen))
		}
	}
	if err == nil {
		err = state.save()
	}
	if err == nil && len(missing) > 0 {
		err = Errorf(CodeUnsafe, "%s; or go on without, with --force", strings.Join(missing, "; "))
	}
	if err != nil {
		return nil, errors.Join(err, state.drop(point))
	}
	return warnings, nil
}

// ensure checks a guard, and sets it if it is missing.
func (g *guard) ensure(in *inspection, state *guardState) finding {
	f := g.check(in)
	if f.state == GuardPass || g.apply == nil {
		return f
	}
	if err := g.apply(in, state); host.NotToBeHad(err) {
		return lack("cannot be had on this machine: %v", err)
	} else if err != nil {
		return fail("%v", err)
	}
	return g.check(in)
}

// UndoGuards puts back what ApplyGuards changed on the machine, once no other
// mount needs it. A mount that ApplyGuards was never called for is no error.
func UndoGuards(point string) error {
	state, err := openGuardState(guardStateDir)
	if err != nil {
		return err
	}
	defer state.close()
	return state.drop(point)
}
