package blockdev

import (
	"context"
	"errors"
	"sync/atomic"
	"time"
	"unsafe"
)

// The ladder frees memory when the limit has no room: for writes that wait, and
// when the limit is lowered below what is stored. One goroutine climbs it, off
// the I/O path: rung after rung, a bounded piece of each, and again from the
// first while they free something. What it does is published as any compaction,
// recompression or writeback is, so it may die anywhere.

const (
	ladderPiece = 256 // pages that a rung is asked for at a time
	// How long a rung that freed nothing is let be: at first, and at most while
	// somebody waits, or nobody does.
	ladderRest     = 50 * time.Millisecond
	ladderRestMost = 2 * time.Second
	ladderIdleMost = time.Minute
	// ladderAway is how long it waits for a piece of writeback.
	ladderAway = 500 * time.Millisecond
	// How long the rung is let be after the device has not written one page in
	// policyWait: at first, and at most.
	ladderAwayRest, ladderAwayRestMost = time.Minute, time.Hour
	// ladderHeld is how many pages one write may need, and how many waiting
	// writes are thought of.
	ladderHeld, ladderHeldWrites = chainPages, 16

	limitStatAt = keptAt + 1536
)

// ladder is what the goroutine and those who call it share.
type ladder struct {
	wake   chan struct{} // immutable; capacity 1
	policy atomic.Pointer[limitPolicy]
	stat   *limitStat  // immutable; shared memory
	away   atomic.Bool // writeback runs for the ladder, or somebody looks whether it may
	asked  atomic.Bool // a write found no room since the last climb ended
	anew   atomic.Bool // what was tried in vain may be tried again: limit or policy is another

	awayRest time.Duration // guarded by away; 0: the device wrote when it was last asked to
	awayFrom time.Time     // guarded by away; it is not asked to before

	// The goroutine's own.
	rest  time.Duration // how long nothing is tried after the last climb; 0: that did what it was asked
	ended time.Time     // when that was
	nap   *time.Timer   // between two pieces
}

func (l *ladder) poke() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// openLadder prepares the ladder of a disk.
func (d *disk) openLadder(p limitPolicy) {
	d.ladder.wake = make(chan struct{}, 1)
	d.ladder.nap = time.NewTimer(0)
	d.ladder.stat = (*limitStat)(unsafe.Add(d.region.Base(), limitStatAt))
	d.ladder.policy.Store(&p)
	d.account.freed = d.upkeep.poke
}

// setLadder changes the policy of a disk that serves. Who waits already waits
// as long as was said then.
func (d *disk) setLadder(p limitPolicy) {
	d.ladder.policy.Store(&p)
	d.ladder.anew.Store(true)
	d.ladder.poke()
}

// setLimit changes the limit of a disk that serves: what is stored beyond it is
// made to need less, as far as the policy allows.
func (d *disk) setLimit(bytes int64) {
	d.account.limit.Store(bytes / PageSize)
	d.ladder.anew.Store(true)
	d.ladder.poke()
	d.upkeep.poke() // there may be more room than there was
}

// overLimit asks for room under the limit, for a page that found none.
func (d *disk) overLimit() error {
	d.ladder.asked.Store(true)
	d.ladder.poke()
	return errLimit
}

// shortfall is how many pages the ladder is to free: down to the limit; and if
// somebody asked for room, so much that all who wait get it, and 1/64 of the
// limit, so that the next need not ask.
func (d *disk) shortfall() int64 {
	limit := d.account.limit.Load()
	if limit == 0 {
		return 0
	}
	target := limit
	if waiting := d.account.waiters.Load(); waiting > 0 || d.ladder.asked.Load() {
		target -= min(limit/2, limit/64+ladderHeld*max(1, min(waiting, ladderHeldWrites)))
	}
	return max(0, d.account.used.Load()-target)
}

// runLadder climbs when it is asked to, and again after a rest when that was
// not enough: what I/O has done meanwhile may have made it possible.
func (d *disk) runLadder() {
	l := &d.ladder
	timer := time.NewTimer(ladderRest)
	defer timer.Stop()
	for {
		select {
		case <-d.stop:
			return
		case <-timer.C:
		case <-l.wake:
			if !l.anew.Load() && time.Since(l.ended) < min(l.rest, ladderRestMost) {
				continue // who asks now gets what the timer brings
			}
		}
		if l.anew.Swap(false) {
			l.rest = 0
		}
		d.climb()
		if l.rest != 0 {
			timer.Reset(l.rest)
		}
	}
}

// climb tries the rungs in order, a piece of each, until enough is free or none
// of them frees anything.
func (d *disk) climb() {
	l := &d.ladder
	most := ladderIdleMost
	if d.account.waiters.Load() > 0 || l.asked.Load() {
		most = ladderRestMost
	}
	need := d.shortfall()
	for freed := int64(1); need > 0 && freed > 0 && !d.stopped(); {
		freed = 0
		for _, r := range l.policy.Load().rungs {
			if need == 0 || r == 0 || d.stopped() {
				break
			}
			freed += d.tryRung(d.ending, r, min(need, ladderPiece))
			need = d.shortfall()
		}
	}
	l.asked.Store(false)
	l.ended = time.Now()
	switch {
	case need == 0:
		l.rest = 0
	case l.rest == 0:
		l.rest = ladderRest
	default:
		l.rest = min(2*l.rest, most)
	}
}

// tryRung has a rung free some pages, counts what it does, and lets as much time
// pass as that took: a quarter if somebody waits for it.
func (d *disk) tryRung(ctx context.Context, r rungNumber, want int64) (freed int64) {
	start := time.Now()
	var ready bool
	switch r {
	case rungCompact:
		freed, ready = d.compactSome(ctx, want), true
	case rungRecompress:
		freed, ready = d.recompressSome(ctx, want)
	case rungWriteback:
		freed, ready = d.writebackSome(ctx, want)
	}
	if !ready {
		return 0
	}
	took := time.Since(start)
	s := &d.ladder.stat.rungs[r-1]
	s.tried.Add(1)
	s.freed.Add(freed)
	s.nanos.Add(int64(took))
	d.upkeep.poke()
	d.napLadder(took)
	return freed
}

// napLadder rests, a quarter as long while somebody waits for the ladder, and no
// longer when somebody begins to.
func (d *disk) napLadder(rest time.Duration) {
	l := &d.ladder
	wake := l.wake
	if d.account.waiters.Load() > 0 {
		rest /= 4
		wake = nil // it is heard when the climb ends
	}
	l.nap.Reset(rest)
	for {
		select {
		case <-d.stop:
			return
		case <-l.nap.C:
			return
		case <-wake:
			l.poke() // it is for who climbs, too
			if d.account.waiters.Load() > 0 {
				return
			}
			wake = nil
			l.nap.Reset(rest / 4) // he may not be counted yet
		}
	}
}

// stopped says whether the disk's goroutines are to end.
func (d *disk) stopped() bool {
	select {
	case <-d.stop:
		return true
	default:
		return false
	}
}

// compactSome moves objects together until so many pages are free.
func (d *disk) compactSome(ctx context.Context, want int64) int64 {
	return d.compactUntil(ctx, func(freed int64) bool { return freed >= want || d.stopped() })
}

// coldAges are how long, in seconds, a page must have been left alone to be
// taken for cold: the coldest first.
var coldAges = [...]uint32{600, 60, 5}

// recompressSome has cold pages compressed better until about so many pages are
// saved; ready: a secondary algorithm is configured, and no other pass runs. What
// becomes free inside of zspages is compaction's to give back.
func (d *disk) recompressSome(ctx context.Context, want int64) (freed int64, ready bool) {
	defer d.lendHeld()()
	for _, age := range coldAges {
		r, err := d.recompressPass(ctx, recompressOptions{selector: selector{before: d.before(age)}, maxPages: 4 * ladderPiece})
		ready = ready || err == nil || r.attempts > 0
		if freed += (r.saved + PageSize - 1) / PageSize; err != nil || freed >= want {
			break
		}
	}
	return freed, ready
}

// writebackSome has cold pages written to the backing device, first those that do
// not compress; ready: there is one, no other pass runs, and the rung does not
// rest. It waits only so long: a device that stalls must not keep the other rungs
// from being climbed.
func (d *disk) writebackSome(ctx context.Context, want int64) (freed int64, ready bool) {
	l := &d.ladder
	if d.back == nil || l.away.Swap(true) {
		return 0, false
	}
	if time.Now().Before(l.awayFrom) {
		l.away.Store(false)
		return 0, false
	}
	type result struct {
		freed int64
		ready bool
	}
	done := make(chan result, 1)
	d.wg.Go(func() {
		freed, ready := d.writeAway(ctx, want)
		l.away.Store(false)
		done <- result{freed, ready}
	})
	wait := time.NewTimer(ladderAway)
	defer wait.Stop()
	select {
	case r := <-done:
		return r.freed, r.ready
	case <-wait.C:
	case <-d.stop:
	}
	return 0, true // what it frees yet is seen when somebody asks again
}

// writeAway is writebackSome for as long as it takes, but no longer than policyWait:
// while it is under way, nothing else is recompressed or written back. Caller has
// away.
func (d *disk) writeAway(ctx context.Context, want int64) (freed int64, ready bool) {
	defer d.lendHeld()()
	ctx, cancel := context.WithTimeout(ctx, d.faults.deviceWait())
	defer cancel()
	pages := int64(0)
	for _, age := range coldAges {
		cold := d.before(age)
		r, err := d.writebackPass(ctx, writebackOptions{
			selectors: []selector{{huge: true, before: cold}, {before: cold}}, maxPages: 4 * ladderPiece})
		ready = ready || err == nil || r.pages > 0
		pages += r.pages
		if freed += (r.freed + PageSize - 1) / PageSize; err != nil || freed >= want {
			break
		}
	}
	// What a device was given to write is lost to us until it answers: the longer
	// it does not, the more seldom it is asked.
	switch l := &d.ladder; {
	case pages > 0:
		l.awayRest = 0
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		l.awayRest = min(max(2*l.awayRest, ladderAwayRest), ladderAwayRestMost)
		l.awayFrom = time.Now().Add(l.awayRest)
	}
	return freed, ready
}

// before is the time on the disk's clock that was so many seconds ago, never 0.
func (d *disk) before(age uint32) uint32 {
	now := d.clock.Load()
	if now <= age {
		return 1
	}
	return now - age
}
