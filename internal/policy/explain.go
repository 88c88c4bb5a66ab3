package policy

import (
	"fmt"
	"time"
)

// journal keeps the last decisions. What is decided again and again for the
// same reason is one entry.
type journal struct {
	ring [journalLength]entry
	n    int // entries ever
}

const journalLength = 48

// entry is a decision and what became of it, or why there was none.
type entry struct {
	first, last int64 // when
	times       int64
	action      Action
	why         Why
	age         uint32
	pages, done int64
	bytes       int64
	err         error
}

func (j *journal) add(e entry) {
	e.times = 1
	for i := range min(j.n, 2*int(actions)) {
		p := &j.ring[(j.n-1-i)%journalLength]
		if p.action != e.action {
			continue
		}
		if p.why != e.why || p.age != e.age || (p.err == nil) != (e.err == nil) {
			break
		}
		p.last, p.times, p.err = e.last, p.times+1, e.err
		if e.why.held() {
			p.pages = e.pages
		} else {
			p.pages, p.done, p.bytes = p.pages+e.pages, p.done+e.done, p.bytes+e.bytes
		}
		return
	}
	j.ring[j.n%journalLength] = e
	j.n++
}

// AppendStat writes every counter, "name value" a line.
func (e *Engine) AppendStat(b []byte, now int64) []byte {
	e.state.each(func(name string, n int64) { b = fmt.Appendf(b, "%s %d\n", name, n) })
	b = fmt.Appendf(b, "budget_spent %d\nbudget_left %d\n", e.state.spent(now), e.left(now))
	return b
}

// AppendExplain tells people what the policy does now and why, and what it
// decided lately, the last first.
func (e *Engine) AppendExplain(b []byte, now int64) []byte {
	b = fmt.Appendf(b, "policy: %s\n", e.rules)
	if e.rules.Active() {
		b = e.appendNow(b, now)
		for a := range actions {
			if e.began {
				b = e.appendAction(b, now, a)
			}
		}
		b = e.appendBudget(b, now)
	}
	for i := range min(e.log.n, journalLength) {
		if i == 0 {
			b = append(b, "decisions, the last first:\n"...)
		}
		b = e.log.ring[(e.log.n-1-i)%journalLength].append(b, now)
	}
	return b
}

// appendNow tells how the machine is.
func (e *Engine) appendNow(b []byte, now int64) []byte {
	if !e.began {
		return append(b, "machine: nothing is known yet\n"...)
	}
	f := &e.facts
	b = append(b, "machine: memory is "...)
	if e.short() {
		b = fmt.Appendf(b, "short, so pages need an age of one part in %d and %d times the rate is allowed", younger, hurry)
	} else {
		b = append(b, "not short"...)
	}
	switch {
	case f.Machine.Pressure >= 0:
		b = fmt.Appendf(b, " (programs wait for it %s of the time, short above %d%%", permille(f.Machine.Pressure), e.rules.Pressure)
	case f.Machine.Free >= 0:
		b = fmt.Appendf(b, " (no pressure figures here; %s is free, short below %s", permille(f.Machine.Free), permille(shortFree))
	default:
		b = append(b, " (no figures of the machine here"...)
	}
	if f.Limit > 0 {
		b = fmt.Appendf(b, "; mem_limit is used to %d%%, short above %d%%", f.Used*100/f.Limit, e.rules.Fill)
	}
	b = fmt.Appendf(b, "); CPUs are busy %s of the time, ", permille(f.Machine.Busy))
	if e.busy() {
		b = fmt.Appendf(b, "above %d%%, so it rests unless memory is short\n", e.rules.CPU)
	} else {
		b = fmt.Appendf(b, "up to %d%% it works\n", e.rules.CPU)
	}
	if e.looks == 0 {
		return append(b, "pages: not looked at yet\n"...)
	}
	return fmt.Appendf(b, "pages: %d held, looked at %s ago; %d recompressed, %d on the backing device\n",
		f.Pages, span(now-e.lookAt), e.looked.Tiers[Recompressed].Pages, e.looked.Tiers[Backed].Pages)
}

// appendAction tells what an action waits for.
func (e *Engine) appendAction(b []byte, now int64, a Action) []byte {
	b = fmt.Appendf(b, "%s: ", a)
	age := e.ages[a]
	switch {
	case a == Compact:
		b = fmt.Appendf(b, "when more than 1 page in %d holds nothing; next %s", looseShare, in(e.retry[a]-now))
	case a == Recompress && e.rules.Recompress == 0, a == Mark && e.rules.Idle == 0,
		a == Incompressible && e.rules.Incompressible == 0, a == Writeback && e.rules.Writeback == 0:
		return append(b, "never, says the policy\n"...)
	case a == Recompress && !e.facts.Stronger:
		return append(b, "there is no codec to recompress with\n"...)
	case a.writes() && !e.facts.Backing:
		return append(b, "there is no backing device\n"...)
	default:
		b = fmt.Appendf(b, "%d pages are %s old or older", e.todo[a], span(int64(age)))
	}
	b = fmt.Appendf(b, "; done to %d pages so far", e.state.count(of(a, 2)))
	if bytes := e.state.count(of(a, 3)); bytes != 0 {
		b = fmt.Appendf(b, ", %d bytes freed", bytes)
	}
	if tier, ok := tierOf(a); ok {
		b = fmt.Appendf(b, "; %d came back", e.state.count(returned+counter(tier)))
		if l := e.state.level(tier); l > 0 {
			b = fmt.Appendf(b, ", so the age is %d times that of the policy", 1<<l)
		}
	}
	if why := e.held[a]; why.held() {
		b = fmt.Appendf(b, "; held: %s", e.excuse(now, a, why))
	}
	return append(b, '\n')
}

// excuse says in words why an action is held.
func (e *Engine) excuse(now int64, a Action, why Why) string {
	switch why {
	case Busy:
		return fmt.Sprintf("the CPUs are busy more than %d%% of the time", e.rules.CPU)
	case Spent:
		return fmt.Sprintf("the budget of %s a day is used up", formatSize(e.rules.Budget))
	case Backoff:
		tier, _ := tierOf(a)
		return fmt.Sprintf("too much came back; goes on %s", in(e.tiers[tier].until-now))
	}
	return fmt.Sprintf("it failed; tried again %s", in(e.retry[a]-now))
}

func (e *Engine) appendBudget(b []byte, now int64) []byte {
	b = fmt.Appendf(b, "budget: %s of %s written back in the last 24 hours; by day, today first:",
		mebibytes(e.state.spent(now)), formatSize(e.rules.Budget))
	days := e.state.days(now)
	last := 0
	for i, n := range days {
		if n != 0 {
			last = i
		}
	}
	for _, n := range days[:last+1] {
		b = fmt.Appendf(b, " %s", mebibytes(n))
	}
	return append(b, '\n')
}

// append writes a decision in a line.
func (p *entry) append(b []byte, now int64) []byte {
	b = fmt.Appendf(b, "  %s ago", span(now-p.last))
	if p.times > 1 {
		b = fmt.Appendf(b, " and %d times in %s before", p.times-1, span(p.last-p.first))
	}
	if p.why.held() {
		return fmt.Appendf(b, ": %s held (%s), %d pages wait\n", p.action, p.why, p.pages)
	}
	b = fmt.Appendf(b, ": %s (%s)", p.action, p.why)
	if p.age != 0 {
		b = fmt.Appendf(b, " of pages %s old", span(int64(p.age)))
	}
	b = fmt.Appendf(b, ": %d tried, %d done, %d bytes freed", p.pages, p.done, p.bytes)
	if p.err != nil {
		b = fmt.Appendf(b, ", failed: %v", p.err)
	}
	return append(b, '\n')
}

func span(seconds int64) string {
	if seconds <= 0 {
		return "0s"
	}
	return formatAge(time.Duration(seconds) * time.Second)
}

func in(seconds int64) string {
	if seconds <= 0 {
		return "now"
	}
	return "in " + span(seconds)
}

func permille(n int) string { return fmt.Sprintf("%d.%d%%", n/10, n%10) }

func mebibytes(pages int64) string { return fmt.Sprintf("%.1f MiB", float64(pages)*PageSize/(1<<20)) }
