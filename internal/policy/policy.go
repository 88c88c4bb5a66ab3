// Package policy decides what is done to pages that nobody touches: which are
// marked idle, which get a stronger codec, which go to the backing device, and
// when. It has no clock, no goroutine and does no I/O: it is told what the time
// is and how things are, and answers with decisions; who carries them out tells
// it what became of them. So a day of decisions is tested in less than a
// second. It never sees a page.
//
// An Engine belongs to one goroutine, or to whoever holds its owner's lock.
package policy

import "time"

// How it is paced, in seconds unless said otherwise.
const (
	longestStep = 2  // that the rate is given for
	hurry       = 4  // times the rate while memory is short
	younger     = 8  // one part of the age will do while memory is short
	retryAfter  = 60 // after a failure; doubled with each in a row
	mostRetry   = 3600

	markRest     = 60      // between two markings
	compactRest  = 30      // between two compactions; doubled with each that frees little
	compactMost  = 3600    // at most
	looseShare   = 16      // one part of memory used without being filled is loose
	looseLeast   = 256     // pages
	littleFreed  = 64      // one part of the pages used
	mostDecision = 1 << 15 // pages
	mostMarks    = 1 << 18
)

// Engine is the policy of one disk.
//
// Invariant: what a decision may write back is charged to the budget when it is
// made, so a death in the middle never lets more be written than was allowed.
type Engine struct {
	rules Rules
	state State

	began   bool  // there was a step
	last    int64 // when
	facts   Facts // of it; Scan is nil
	looked  Scan  // the last look at the table
	lookAt  int64 // when it ended
	looks   int64 // how many ended since the rules were set
	ages    Ages  // that it went by
	todo    [actions]int64
	retry   [actions]int64 // not before
	fails   [actions]int   // in a row
	rest    int64          // of compaction, seconds
	held    [actions]Why   // why an action is held now; Cold: it is not
	tiers   [tiers]tier
	log     journal
	decided [actions]Decision // backs what Step gives
}

// New makes the engine of a disk, with what an earlier one remembered.
func New(r Rules, s State) *Engine {
	return &Engine{rules: r, state: s, rest: compactRest}
}

// SetRules changes the policy. What is remembered stays.
func (e *Engine) SetRules(r Rules) {
	*e = Engine{rules: r, state: e.state, log: e.log, rest: compactRest}
	for i := range e.tiers {
		e.state.setLevel(i, 0)
	}
}

// Rules gives the policy.
func (e *Engine) Rules() Rules { return e.rules }

// State gives what is to be remembered. It changes with Step and Done.
func (e *Engine) State() *State { return &e.state }

// Begin says that a look at the slot table begins, and gives the ages that its
// Scan is to go by.
func (e *Engine) Begin() Ages {
	for i := range e.tiers {
		e.tiers[i].begin()
	}
	for a, age := range [actions]time.Duration{
		Mark: e.rules.Idle, Recompress: e.rules.Recompress, Incompressible: e.rules.Incompressible, Writeback: e.rules.Writeback,
	} {
		e.ages[a] = e.age(Action(a), age)
	}
	return e.ages
}

// age is what an age of the rules is now: doubled for each time that pages came
// back, an eighth while memory is short.
func (e *Engine) age(a Action, d time.Duration) uint32 {
	s := uint64(d / time.Second)
	if s == 0 {
		return 0
	}
	if tier, ok := tierOf(a); ok {
		s <<= e.state.level(tier)
	}
	if e.short() {
		s /= younger
	}
	return uint32(min(max(s, leastAge), mostAge))
}

// short says whether memory was short at the last step.
func (e *Engine) short() bool {
	f := &e.facts
	return f.Machine.Pressure > e.rules.Pressure*10 || f.Limit > 0 && f.Used*100 > f.Limit*int64(e.rules.Fill) ||
		f.Machine.Pressure < 0 && f.Machine.Free >= 0 && f.Machine.Free < shortFree
}

// shortFree is how little memory, per mille, is short where the kernel does
// not tell its pressure.
const shortFree = 50

// busy says whether the CPUs had something else to do at the last step.
func (e *Engine) busy() bool { return e.facts.Machine.Busy > e.rules.CPU*10 }

// Step decides what is to be done now: nothing, mostly. What it gives is good
// until the next Step, and Done is to be told of each.
func (e *Engine) Step(now int64, f Facts) []Decision {
	dt := int64(1)
	if e.began {
		dt = min(max(now-e.last, 1), longestStep)
	}
	e.began, e.last = true, now
	e.state.add(steps, 1)
	scan := f.Scan
	f.Scan = nil
	e.facts = f
	if scan != nil {
		e.learn(now, scan)
	}
	out := e.decided[:0]
	if !e.rules.Active() {
		return out
	}
	quota := max(e.rules.Rate*dt/PageSize, 1)
	if e.short() {
		quota *= hurry
	}
	for a := range actions {
		most := e.wanted(now, a)
		e.held[a] = Cold
		if most == 0 {
			continue
		}
		why := e.reason(now, a)
		if why.held() {
			e.hold(now, a, why, most)
			continue
		}
		switch a {
		case Mark:
			most = min(most, mostMarks)
		case Recompress, Incompressible, Writeback:
			most = min(most, quota, mostDecision)
		}
		d := Decision{Action: a, Why: why, Age: e.ages[a], Max: most}
		if a.writes() {
			d.Max = min(d.Max, e.left(now))
			e.state.charge(now, d.Max)
		}
		out = append(out, d)
	}
	return out
}

// learn takes in a look at the slot table.
func (e *Engine) learn(now int64, s *Scan) {
	e.state.add(scans, 1)
	e.looked, e.lookAt = *s, now
	e.looks++
	e.todo = s.Todo
	for i := range e.tiers {
		back, off := e.tiers[i].learn(now, s.Tiers[i], e.facts.Discards, e.rules.Returns, &e.state, i)
		e.state.add(returned+counter(i), back)
		if off {
			e.state.add(backoffs+counter(i), 1)
		}
	}
}

// wanted is how many pages there are for an action, 0 if it is not to be done
// at all.
func (e *Engine) wanted(now int64, a Action) int64 {
	switch a {
	case Recompress:
		if !e.facts.Stronger {
			return 0
		}
	case Incompressible, Writeback:
		if !e.facts.Backing {
			return 0
		}
	case Mark:
		if now < e.retry[a] {
			return 0
		}
	case Compact:
		if loose := e.loose(); loose > 0 && now >= e.retry[a] {
			return loose
		}
		return 0
	}
	return e.todo[a]
}

// loose is how many pages of memory hold nothing, if they are many.
func (e *Engine) loose() int64 {
	n := e.facts.Used - (e.facts.Bytes+PageSize-1)/PageSize
	if n > e.facts.Used/looseShare+looseLeast {
		return n
	}
	return 0
}

// reason says why an action for which there are pages is done now, or is not.
func (e *Engine) reason(now int64, a Action) Why {
	short := e.short()
	if now < e.retry[a] {
		return Failed
	}
	if a.writes() && e.left(now) == 0 {
		return Spent
	}
	// Reading a recompressed page costs a CPU's time, reading one from the
	// device the reader's: only the first is worth it while memory is short.
	if tier, ok := tierOf(a); ok && now < e.tiers[tier].until && !(short && tier == Recompressed) {
		return Backoff
	}
	switch {
	case short:
		return Short
	case e.busy():
		return Busy
	case a == Compact:
		return Loose
	}
	return Cold
}

// left is how many pages may be written back now.
func (e *Engine) left(now int64) int64 {
	return max(e.rules.Budget/PageSize-e.state.spent(now), 0)
}

// hold notes why nothing is done to so many pages.
func (e *Engine) hold(now int64, a Action, why Why, pages int64) {
	e.held[a] = why
	e.state.add(perHeld+counter(why-Busy), 1)
	e.log.add(entry{first: now, last: now, action: a, why: why, age: e.ages[a], pages: pages})
}

// Done tells what became of a decision.
func (e *Engine) Done(now int64, d Decision, o Outcome) {
	a := d.Action
	if a.writes() {
		e.state.charge(now, o.Blocks-d.Max)
	}
	if o.Again {
		return
	}
	e.state.add(of(a, 0), 1)
	e.state.add(of(a, 1), o.Tried)
	e.state.add(of(a, 2), o.Done)
	e.state.add(of(a, 3), max(o.Bytes, 0))
	if tier, ok := tierOf(a); ok {
		e.tiers[tier].treat(o.Done)
		if tier == Backed {
			e.tiers[Recompressed].moved += o.Done // some of them, no more
		}
	}
	e.todo[a] -= o.Tried
	if o.Tried < d.Max || a == Mark {
		e.todo[a] = 0 // all there is until the next look
	}
	switch a {
	case Mark:
		e.retry[a] = now + markRest
	case Compact:
		e.rested(now, o)
	}
	if o.Failed != nil {
		e.retry[a] = now + min(int64(retryAfter)<<e.fails[a], mostRetry)
		e.fails[a] = min(e.fails[a]+1, 6)
	} else {
		e.fails[a] = 0
	}
	if o.Tried != 0 || o.Done != 0 || o.Failed != nil {
		e.log.add(entry{first: now, last: now, action: a, why: d.Why, age: d.Age, pages: o.Tried, done: o.Done, bytes: o.Bytes, err: o.Failed})
	}
}

// rested says when compaction may be tried again: later each time that it
// frees little.
func (e *Engine) rested(now int64, o Outcome) {
	if o.Done*littleFreed < e.facts.Used {
		e.rest = min(2*e.rest, compactMost)
	} else {
		e.rest = compactRest
	}
	e.retry[Compact] = now + e.rest
}
