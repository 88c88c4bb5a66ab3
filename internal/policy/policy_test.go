package policy

import (
	"errors"
	"strings"
	"testing"
	"time"
)

const simPages = 300

func quiet(int64) {}

// A day on which half the data are never touched again: they are marked,
// recompressed and written back, each at its age; what is used stays as it is.
func TestDayHalfCold(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "balanced", simPages)
	w.run(24*time.Hour, func(int64) {
		for range 4 {
			w.touch(w.r.IntN(simPages / 2))
		}
	})
	for i, p := range w.pages {
		if hot := i < simPages/2; hot && (p.recompressed || p.backed) || !hot && !p.backed {
			t.Fatalf("page %d, used %v: %+v", i, hot, p)
		}
	}
	if n := w.done[Recompress]; n < simPages*2/5 || n > simPages/2 {
		t.Errorf("%d pages recompressed of %d that are cold", n, simPages/2)
	}
	if back := w.count(returned + Recompressed); back > leastBack {
		t.Errorf("%d pages came back, though no cold one is used", back)
	}
}

// A disk that grows: pages are worked on as they age, never sooner.
func TestDayGrowing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "memory", 0)
	w.run(24*time.Hour, func(s int64) {
		if s%30 == 0 {
			w.pages = append(w.pages, simPage{atime: s, held: true, huge: s%300 == 0})
		}
		for _, p := range w.pages[max(0, len(w.pages)-5):] {
			if p.recompressed || p.backed {
				t.Fatalf("page that is %d s old: %+v", s-p.atime, p)
			}
		}
	})
	if n := w.done[Recompress]; n < int64(len(w.pages))*8/10 {
		t.Errorf("%d of %d pages recompressed", n, len(w.pages))
	}
}

// Machines that work by day and rest by night: it works by night only.
func TestDayIdleNight(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "balanced", simPages)
	w.run(48*time.Hour, func(s int64) {
		w.machine.Busy = 20
		if h := s % day / hour; h >= 8 && h < 20 {
			w.machine.Busy = 900
			w.write(w.r.IntN(simPages))
		}
	})
	for h, n := range w.when[Recompress] {
		if h >= 8 && h < 20 && n != 0 {
			t.Errorf("%d pages recompressed at %d o'clock", n, h)
		}
	}
	if w.done[Recompress] == 0 || w.count(perHeld) == 0 {
		t.Errorf("%d pages recompressed, held for the CPU %d times", w.done[Recompress], w.count(perHeld))
	}
}

// Memory that is short is worth the time of a busy CPU, and younger pages.
func TestPressure(t *testing.T) {
	t.Parallel()
	for name, set := range map[string]func(w *world){
		"pressure": func(w *world) { w.machine.Pressure = 500 },
		"limit":    func(w *world) { w.limit = simPages / 3 },
		"free":     func(w *world) { w.machine = Machine{Pressure: -1, Free: 10} },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, "balanced", simPages)
			w.machine.Busy = 950
			w.run(10*time.Minute, quiet)
			if w.done[Recompress] != 0 || w.done[Writeback] != 0 {
				t.Fatal("it works while the CPU is busy and memory is there")
			}
			set(w)
			w.machine.Busy = 950
			w.run(30*time.Minute, quiet)
			if w.done[Recompress] == 0 || w.reasons[Short] == 0 {
				t.Fatalf("recompressed %d pages in half an hour in which memory is short", w.done[Recompress])
			}
		})
	}
}

// What may be written in 24 hours is written, and no page more; the next day
// goes on. run checks the sum at every second.
func TestDayBudget(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "balanced budget=1M writeback=1h incompressible=1h", 5*simPages)
	w.run(20*time.Hour, quiet)
	if w.written != 256 {
		t.Fatalf("%d pages written back on the first day, the budget is 256", w.written)
	}
	if w.count(perHeld+counter(Spent-Busy)) == 0 {
		t.Error("never held for the budget")
	}
	if text := string(w.e.AppendExplain(nil, w.now)); !strings.Contains(text, "budget of 1M a day is used up") ||
		!strings.Contains(text, "1.0 MiB of 1M written back in the last 24 hours") {
		t.Errorf("explained as\n%s", text)
	}
	// Another worker goes on with the same history.
	w.e = New(w.e.Rules(), *w.e.State())
	w.run(28*time.Hour, quiet)
	if w.written != 512 {
		t.Fatalf("%d pages written back in two days, the budget is 256 each", w.written)
	}
	days := w.e.State().days(w.now)
	if days[0]+days[1]+days[2] != 512 {
		t.Errorf("the days have %v", days)
	}
}

// Pages that are used again just when they have been recompressed: it waits
// longer and longer, and does a small part of what it would have done.
func TestDayThrash(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "memory", simPages)
	rash := int64(0)
	w.run(24*time.Hour, func(s int64) {
		if s%600 == 0 { // all is written anew, twice as late as the policy bets
			rash += simPages
			for i := range w.pages {
				w.write(i)
			}
		}
	})
	wise := w.done[Recompress]
	if wise*10 > rash {
		t.Errorf("recompressed %d pages for nothing, without backing off it were %d", wise, rash)
	}
	if w.count(backoffs+Recompressed) == 0 || w.count(returned+Recompressed) == 0 {
		t.Error("no back-off was counted")
	}
	// When the thrash is over it finds back.
	w.run(24*time.Hour, quiet)
	if w.done[Recompress] < wise+simPages/2 || w.e.State().level(Recompressed) != 0 {
		t.Errorf("a quiet day later %d of %d pages are recompressed, level %d", w.done[Recompress]-wise, simPages, w.e.State().level(Recompressed))
	}
}

// Pages read back from the device soon: fewer are written.
func TestDayThrashBacked(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "memory recompress=never writeback=5m incompressible=5m", simPages)
	w.run(24*time.Hour, func(s int64) {
		if s%900 == 0 { // a program that looks at all its pages four times an hour
			for i := range w.pages {
				if w.pages[i].backed {
					w.write(i) // it is promoted
				} else {
					w.touch(i)
				}
			}
		}
	})
	if w.written > 10*simPages {
		t.Errorf("%d pages written back, where %d thrash", w.written, simPages)
	}
	if w.count(backoffs+Backed) == 0 {
		t.Error("it never backed off")
	}
}

// A program that ends gives its pages back: no reason to back off.
func TestDiscardsAreNoReturns(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "memory", simPages)
	w.run(2*time.Hour, quiet)
	for i := range w.pages {
		w.pages[i] = simPage{}
		w.discard++
	}
	w.run(time.Hour, quiet)
	if w.count(backoffs) != 0 || w.count(backoffs+1) != 0 {
		t.Error("it backed off")
	}
}

// What fails is tried again, later each time, and costs no budget.
func TestFailure(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "memory writeback=5m recompress=never", simPages)
	w.fail = errors.New("no such luck")
	w.run(6*time.Hour, quiet)
	if n := w.count(of(Writeback, 0)); n < 5 || n > 20 {
		t.Errorf("tried %d times in six hours", n)
	}
	if n := w.e.State().spent(w.now); n != 0 {
		t.Errorf("%d pages of budget spent on nothing", n)
	}
	if text := string(w.e.AppendExplain(nil, w.now)); !strings.Contains(text, "no such luck") {
		t.Errorf("explained as\n%s", text)
	}
	w.fail = nil
	w.run(2*time.Hour, quiet)
	if w.written == 0 {
		t.Error("nothing was written after the failure was over")
	}
}

// Compaction is asked for when memory is loose, and rests when it frees little.
func TestCompact(t *testing.T) {
	t.Parallel()
	r, err := Named("memory")
	if err != nil {
		t.Fatal(err)
	}
	e := New(r, State{})
	runs := 0
	for now := int64(1); now < hour; now++ {
		for _, d := range e.Step(now, Facts{Used: 100_000, Bytes: 60_000 * PageSize}) {
			if d.Action != Compact || d.Why != Loose {
				t.Fatalf("decided %+v", d)
			}
			runs++
			e.Done(now, d, Outcome{Tried: d.Max, Done: 3})
		}
	}
	if runs < 3 || runs > 10 {
		t.Errorf("%d compactions in an hour that free nothing", runs)
	}
	if n := len(e.Step(hour, Facts{Used: 100_000, Bytes: 99_000 * PageSize})); n != 0 {
		t.Error("dense memory is compacted")
	}
}

// Off does nothing, whatever there is to do.
func TestOff(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "off", simPages)
	w.run(time.Hour, quiet)
	if w.done != [actions]int64{} {
		t.Errorf("done: %v", w.done)
	}
}

// A step makes no garbage: it runs in a machine without memory.
func TestStepAllocates(t *testing.T) {
	w := newWorld(t, "memory", simPages)
	w.run(10*time.Minute, quiet)
	s := Scan{Todo: [actions]int64{Recompress: 100}}
	if n := testing.AllocsPerRun(100, func() {
		w.now++
		w.e.Begin()
		for _, d := range w.e.Step(w.now, Facts{Stronger: true, Scan: &s}) {
			w.e.Done(w.now, d, Outcome{Tried: 1})
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
