package blockdev

import (
	"sync/atomic"

	"github.com/zramfs/zramfs/internal/policy"
)

// policyWalk is a look at the slot table under way.
type policyWalk struct {
	active      bool
	next        uint64 // slot
	began, prev uint32 // when it did, and the one before
	ages        policy.Ages
	scan        policy.Scan
}

// policyFacts is what the policy decides by.
func (d *disk) policyFacts(now int64) policy.Facts {
	s := sumLanes(d.lanes)
	return policy.Facts{
		Machine: d.governor.machine(), Pages: s.pages, Bytes: s.bytes, Discards: s.discards,
		Used: d.account.used.Load(), Limit: d.account.limit.Load(),
		Stronger: d.strongest() != 0, Backing: d.back != nil,
		Scan: d.policyWalk(now),
	}
}

// strongest is the highest priority that has an algorithm, 0 if none has: what
// that does not make smaller is given up, and not tried at every look.
func (d *disk) strongest() uint8 {
	for prio := uint8(maxPriority); prio > 0; prio-- {
		if _, ok := d.secondary(prio); ok {
			return prio
		}
	}
	return 0
}

// policyWalk looks at the next piece of the slot table, and gives what the whole
// look has found if this was its end.
func (d *disk) policyWalk(now int64) *policy.Scan {
	g := &d.governor
	l := &g.look
	if !l.active {
		if l.began != 0 && now < int64(l.began)+policyPause {
			return nil
		}
		g.mu.Lock()
		ages := g.engine.Begin()
		g.mu.Unlock()
		*l = policyWalk{active: true, prev: l.began, began: uint32(now), ages: ages}
	}
	top, prio := d.table.slots(), d.strongest()
	d.quiet.RLock()
	defer d.quiet.RUnlock()
	for seen := 0; seen < policyLook; {
		if l.next = d.table.nextPresent(l.next); l.next >= top {
			l.active = false
			return &l.scan
		}
		end := min((l.next/slotsPerTablePage+1)*slotsPerTablePage, top)
		seen += int(end - l.next)
		for ; l.next < end; l.next++ {
			if w := d.table.load(l.next); w != 0 {
				l.count(d, w, now-int64(atomic.LoadUint32(&d.table.atimes[l.next])), prio)
			}
		}
	}
	return nil
}

// count counts a page that was last used age seconds ago.
func (l *policyWalk) count(d *disk, w word, age int64, prio uint8) {
	old := func(a policy.Action) bool { return l.ages[a] != 0 && age >= int64(l.ages[a]) }
	// What is younger than a page must be to be put in its tier was used there.
	read := func(a policy.Action) bool { return !old(a) && l.prev != 0 && age <= int64(l.began-l.prev) }
	switch w.state() {
	case backed:
		t := &l.scan.Tiers[policy.Backed]
		t.Pages++
		if read(policy.Writeback) && read(policy.Incompressible) {
			t.Read++
		}
	case stored, huge:
		given := w.has(flagIncompressible)
		again := d.priorityOf(w)
		if again != 0 {
			t := &l.scan.Tiers[policy.Recompressed]
			t.Pages++
			if read(policy.Recompress) {
				t.Read++
			}
		}
		for a, fits := range [...]bool{
			policy.Mark:           !w.has(flagIdle),
			policy.Recompress:     !given && again < prio,
			policy.Incompressible: given || w.state() == huge,
			policy.Writeback:      true,
		} {
			if fits && old(policy.Action(a)) {
				l.scan.Todo[a]++
			}
		}
	}
}
