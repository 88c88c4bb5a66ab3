package blockdev

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/zramfs/zramfs/compress"
	"github.com/zramfs/zramfs/internal/invariants"
	"github.com/zramfs/zramfs/internal/policy"
	"github.com/zramfs/zramfs/internal/shm"
)

// The policy of a disk decides in package policy; here its decisions become
// passes. One goroutine looks at the slot table, a piece at a time, asks, and
// does what it is told, in pieces. While the policy is off it sleeps.

const (
	policyTick   = time.Second
	policyLook   = 1 << 18          // slots in a tick
	policyWindow = 1 << 18          // slots that a pass is about at a time
	policyPause  = 15               // seconds from the begin of a look to that of the next, at least
	policyWait   = 20 * time.Second // for a backing device in one step
	policyAt     = keptAt + 2048    // the state in the region's header
)

// governor is the policy of a disk at work.
type governor struct {
	wake    chan struct{}         // immutable; capacity 1
	machine func() policy.Machine // immutable
	kept    []atomic.Uint64       // shared memory; the engine's state

	mu     sync.Mutex     // below everything
	engine *policy.Engine // guarded by mu

	// The goroutine's own.
	look    policyWalk
	decided []policy.Decision
	cursor  [8]uint64 // where the next pass of an action begins
}

// openGovernor prepares the policy of a disk, which goes on with what an earlier
// worker remembered.
func (d *disk) openGovernor(r policy.Rules, machine func() policy.Machine) {
	g := &d.governor
	g.wake = make(chan struct{}, 1)
	if g.machine = machine; machine == nil {
		g.machine = func() policy.Machine { return policy.Machine{Pressure: -1, Free: -1} }
	}
	g.kept = policyState(d.region)
	var s policy.State
	for i := range s {
		s[i] = g.kept[i].Load()
	}
	g.engine = policy.New(r, s)
}

func policyState(r *shm.Region) []atomic.Uint64 {
	return unsafe.Slice((*atomic.Uint64)(unsafe.Add(r.Base(), policyAt)), policy.StateWords)
}

// setRules changes the policy of a disk that serves.
func (d *disk) setRules(r policy.Rules) {
	g := &d.governor
	g.mu.Lock()
	g.engine.SetRules(r)
	g.save()
	g.mu.Unlock()
	select {
	case g.wake <- struct{}{}:
	default:
	}
}

// save makes the engine's state what the next worker finds. Caller holds mu.
func (g *governor) save() {
	for i, w := range g.engine.State() {
		if g.kept[i].Load() != w {
			invariants.CrashPoint("policy.state")
			g.kept[i].Store(w)
		}
	}
}

func (g *governor) active() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.engine.Rules().Active()
}

// policyClock is the clock that access times are of.
func (d *disk) policyClock() int64 { return int64(d.clock.Load()) + d.faults.ahead() }

func (d *disk) runPolicy() {
	g := &d.governor
	tick := time.NewTicker(policyTick)
	defer tick.Stop()
	for {
		if g.active() {
			tick.Reset(policyTick)
			d.policyStep()
		} else {
			tick.Stop()
			g.look = policyWalk{}
		}
		select {
		case <-d.stop:
			return
		case <-g.wake:
			g.look = policyWalk{}
		case <-tick.C:
		}
	}
}

// policyStep looks on, decides, and does it.
func (d *disk) policyStep() {
	g := &d.governor
	now := d.policyClock()
	f := d.policyFacts(now)
	g.mu.Lock()
	g.decided = append(g.decided[:0], g.engine.Step(now, f)...)
	g.save() // before anything is done: a budget is charged beforehand
	g.mu.Unlock()
	for _, todo := range g.decided {
		if d.stopped() {
			return
		}
		o := d.policyDo(now, todo)
		g.mu.Lock()
		g.engine.Done(now, todo, o)
		g.save()
		g.mu.Unlock()
	}
}

// policyDo does what was decided.
func (d *disk) policyDo(now int64, todo policy.Decision) (o policy.Outcome) {
	if todo.Action == policy.Compact {
		freed, err := d.compact(d.ending)
		return policy.Outcome{Tried: todo.Max, Done: freed, Bytes: freed * PageSize, Failed: err}
	}
	before := now + 1 - int64(todo.Age)
	if before <= 0 {
		return o // nothing is as old as that
	}
	ctx, cancel := d.ending, context.CancelFunc(func() {})
	if todo.Action == policy.Incompressible || todo.Action == policy.Writeback {
		ctx, cancel = context.WithTimeout(ctx, policyWait)
	}
	defer cancel()
	sel := selector{before: uint32(before)}
	at := &d.governor.cursor[todo.Action]
	for seen, top := uint64(0), d.table.slots(); seen < top && o.Tried < todo.Max && o.Failed == nil; {
		from := d.table.nextPresent(*at)
		if from >= top {
			seen += top - min(*at, top)
			*at = 0
			continue
		}
		seen += from - *at
		sel.lo, sel.hi = from, min(from+policyWindow, top)
		part, err := d.policyPass(ctx, todo.Action, sel, todo.Max-o.Tried)
		o.Tried, o.Done, o.Bytes, o.Blocks = o.Tried+part.Tried, o.Done+part.Done, o.Bytes+part.Bytes, o.Blocks+part.Blocks
		switch {
		case err == nil:
		case errors.Is(err, ErrAgain) || d.ending.Err() != nil:
			o.Again = o.Tried == 0 && o.Blocks == 0
			return o
		case errors.Is(err, context.DeadlineExceeded):
			o.Failed = fmt.Errorf("the backing device did not finish in %s", policyWait)
		default:
			o.Failed = err
		}
		*at = from // what is left there comes next
		if o.Tried < todo.Max {
			*at = sel.hi
			seen += sel.hi - from
		}
	}
	return o
}

// policyPass does an action to pages of one window, most of them at most.
func (d *disk) policyPass(ctx context.Context, a policy.Action, sel selector, most int64) (o policy.Outcome, err error) {
	switch a {
	case policy.Mark:
		err = d.walk(ctx, &sel, func(slot uint64, w word) bool {
			if !w.has(flagIdle) && d.markOld(slot, sel.before) {
				o.Tried++
			}
			return o.Tried < most
		})
		o.Done = o.Tried
	case policy.Recompress:
		var r recompressResult
		r, err = d.recompressPass(ctx, recompressOptions{selector: sel, priority: d.strongest(), maxPages: most})
		o = policy.Outcome{Tried: r.attempts, Done: r.recompressed, Bytes: r.saved}
	case policy.Incompressible, policy.Writeback:
		all := []selector{sel}
		if a == policy.Incompressible {
			all = []selector{sel, sel}
			all[0].huge, all[1].incompressible = true, true
		}
		var r writebackResult
		r, err = d.writebackPass(ctx, writebackOptions{selectors: all, maxPages: most})
		o = policy.Outcome{Tried: max(r.pages, r.blocks), Done: r.pages, Bytes: r.freed, Blocks: r.blocks}
	}
	return o, err
}

// markOld is markSlot under quiet.
func (d *disk) markOld(slot uint64, before uint32) bool {
	d.quiet.RLock()
	defer d.quiet.RUnlock()
	return d.markSlot(slot, before)
}

// govern puts a policy into settings. One that recompresses brings its algorithm
// where there is none, or where it names another than its preset does.
func (s *settings) govern(r policy.Rules) (changed bool, err error) {
	s.rules = r
	preset, err := policy.Named(r.Preset())
	if err != nil || r.Recompress == 0 || s.hasSecondary() && r.Algorithm == preset.Algorithm {
		return false, err
	}
	p, err := compress.ParseAlgorithm(r.Algorithm)
	if err == nil {
		err = p.Probe()
	}
	if err != nil {
		return false, fmt.Errorf("policy setting algorithm=%s: %w: %w", r.Algorithm, ErrInvalid, err)
	}
	s.recomp[0], s.dicts[1] = p, dictionaryFile{}
	return true, nil
}

func (s *settings) hasSecondary() bool {
	for _, p := range s.recomp {
		if p.Codec != "" {
			return true
		}
	}
	return false
}

// Govern changes the policy, and with it the algorithm of priority 1 where the
// policy brings one.
func (d *Device) Govern(r policy.Rules) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.next
	brings, err := s.govern(r)
	if err != nil {
		return err
	}
	k := d.disk.Load()
	now := uint32(0)
	if brings && k != nil && !d.gone {
		// The header has it first: the next worker must find what the settings name.
		was := k.byPriority[1].Load()
		if err := k.use(wanted{s.recomp[0], s.dicts[1], 1}); err != nil {
			return fmt.Errorf("policy: algorithm %s: %w", s.recomp[0], err)
		}
		now = k.byPriority[1].Swap(was)
	}
	return d.changeLocked(func(next *settings) error { *next = s; return nil }, func(k *disk) {
		if now != 0 {
			k.byPriority[1].Store(now)
		}
		k.setRules(r)
	})
}
