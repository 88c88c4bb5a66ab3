package policy

import (
	"math/rand/v2"
	"testing"
	"time"
)

// world is a machine and a disk in simulated time, for one engine.
type world struct {
	t     *testing.T
	e     *Engine
	now   int64
	r     *rand.Rand
	pages []simPage
	prev  int64 // when the last look began

	machine Machine
	limit   int64
	backing bool
	discard int64
	fail    error

	read, readBacked int64 // pages that were read, ever, and of them from the device
	written          int64 // pages written back, ever
	done             [actions]int64
	when             [actions][24]int64 // pages by hour of the day
	reasons          map[Why]int
}

type simPage struct {
	atime                    int64
	held, idle, huge         bool
	recompressed, backed, no bool // no codec helps
}

const lookEvery = 30

func newWorld(t *testing.T, rules string, pages int) *world {
	t.Helper()
	r, err := Parse(rules)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, e: New(r, State{}), now: 1000, r: rand.New(rand.NewPCG(1, 2)), backing: true, reasons: map[Why]int{},
		machine: Machine{Busy: 100, Pressure: 0}}
	for i := range pages {
		w.pages = append(w.pages, simPage{atime: w.now, held: true, huge: i%10 == 0})
	}
	return w
}

// run lets time pass, second by second; live is what programs do in one.
func (w *world) run(d time.Duration, live func(second int64)) {
	w.t.Helper()
	for range int64(d / time.Second) {
		w.now++
		live(w.now)
		f := Facts{Machine: w.machine, Limit: w.limit, Discards: w.discard, Stronger: true, Backing: w.backing}
		for i := range w.pages {
			if w.now%lookEvery != 0 {
				break
			}
			if f.Scan == nil {
				f.Scan = &Scan{}
				w.e.Begin()
			}
			w.look(&w.pages[i], f.Scan, w.e.ages)
		}
		if f.Scan != nil {
			w.prev = w.now
		}
		f.Pages = int64(len(w.pages))
		f.Used, f.Bytes = f.Pages/3, f.Pages/3*PageSize
		for _, d := range w.e.Step(w.now, f) {
			w.reasons[d.Why]++
			w.e.Done(w.now, d, w.do(d))
		}
		if spent, most := w.e.State().spent(w.now)*PageSize, w.e.Rules().Budget; spent > most {
			w.t.Fatalf("at %d: %d bytes written back in 24 hours, the budget is %d", w.now, spent, most)
		}
	}
}

func (w *world) look(p *simPage, s *Scan, ages Ages) {
	if !p.held {
		return
	}
	age := w.now - p.atime
	old := func(a Action) bool { return ages[a] != 0 && age >= int64(ages[a]) }
	tier := -1
	switch {
	case p.backed:
		tier = Backed
	case p.recompressed:
		tier = Recompressed
	}
	if tier >= 0 {
		s.Tiers[tier].Pages++
		if p.atime >= w.prev {
			s.Tiers[tier].Read++
		}
	}
	if p.backed {
		return
	}
	for a := range actions {
		if w.fits(p, a) && old(a) {
			s.Todo[a]++
		}
	}
}

func (w *world) fits(p *simPage, a Action) bool {
	switch a {
	case Mark:
		return !p.idle
	case Recompress:
		return !p.recompressed && !p.no
	case Incompressible:
		return p.huge || p.no
	case Writeback:
		return true
	}
	return false
}

func (w *world) do(d Decision) (o Outcome) {
	if w.fail != nil {
		return Outcome{Failed: w.fail}
	}
	for i := range w.pages {
		p := &w.pages[i]
		if o.Tried == d.Max {
			break
		}
		if !p.held || p.backed || w.now-p.atime < int64(d.Age) || !w.fits(p, d.Action) {
			continue
		}
		o.Tried++
		o.Done++
		switch d.Action {
		case Mark:
			p.idle = true
		case Recompress:
			if p.no = i%20 == 0; p.no {
				o.Done--
			} else {
				p.recompressed, p.huge, o.Bytes = true, false, o.Bytes+500
			}
		case Incompressible, Writeback:
			p.backed = true
			w.written++
			o.Blocks++
			o.Bytes += 1500
		}
	}
	w.done[d.Action] += o.Done
	w.when[d.Action][w.now%day/hour] += o.Done
	return o
}

// touch reads a page.
func (w *world) touch(i int) {
	p := &w.pages[i]
	if !p.held {
		return
	}
	w.read++
	if p.backed {
		w.readBacked++
	}
	p.atime, p.idle = w.now, false
}

// write stores a page anew.
func (w *world) write(i int) {
	w.pages[i] = simPage{atime: w.now, held: true, huge: i%10 == 0}
}

func (w *world) count(c counter) int64 { return w.e.State().count(c) }
