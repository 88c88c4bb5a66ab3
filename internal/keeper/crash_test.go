//go:build crashpoints

package keeper

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/zramfs/zramfs/blockdev"
	"github.com/zramfs/zramfs/internal/fuseconn"
	"github.com/zramfs/zramfs/internal/invariants"
	"github.com/zramfs/zramfs/internal/shm"
)

// Not all of it can be reached in one process. To mount (connect), to start a keeper
// (replaceKeeper) and to wait for the end of others (alone) take processes that run
// zramfs; the integration tests kill those. Each of the stores there is one word that
// says all, and what the next one makes of it is tested here.

// points counts where somebody died.
type points map[string]int

// dies runs f with a death at its k-th point, and says where it was, "" if it has
// no k-th.
func (p points) dies(k int64, f func()) (point string) {
	invariants.Arm(k, "crash.", "keeper.", "header.", "room.")
	defer invariants.Arm(0)
	if point = invariants.DiesAt(f); point != "" {
		p[point]++
	}
	return point
}

// has asks for deaths at these points.
func (p points) has(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		if p[name] == 0 {
			t.Errorf("nobody died at %s", name)
		}
	}
	t.Log(slices.Sorted(maps.Keys(p)))
}

// A keeper that dies while it makes the header leaves none; a worker that dies
// while it saves INIT leaves none, or all of it, and the next one can save it.
func TestCrashInHeader(t *testing.T) {
	seen := points{}
	request := []byte(strings.Repeat("init", 20))
	for k := int64(1); ; k++ {
		r, err := shm.AdoptSource(nil).Create("header", headerSize)
		if err != nil {
			t.Fatal(err)
		}
		point := seen.dies(k, func() {
			h, err := makeHeader(r)
			if err == nil {
				err = h.saveInit(request)
			}
			if err != nil {
				t.Error(err)
			}
		})
		h, err := openHeader(r)
		if early := strings.HasPrefix(point, "header.magic") || point == "header.format"; early != (err != nil) {
			t.Errorf("died at %q: the header is opened with %v", point, err)
		}
		if err == nil {
			if got := h.savedInit(); got != nil && string(got) != string(request) || (point == "header.init.saved" || point == "") != (got != nil) {
				t.Errorf("died at %q: INIT is %q", point, got)
			}
			if err := h.saveInit(request); err != nil || string(h.savedInit()) != string(request) {
				t.Errorf("died at %q: saved again: %v", point, err)
			}
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		if point == "" {
			break
		}
	}
	seen.has(t, "header.magic", "header.format", "header.made", "header.init", "header.init.length", "header.init.saved")
}

// Workers die by faults, each with requests open, and then others while they count
// these, at every point and twice. Each death by a fault counts once for each
// request, whatever happens: as if nobody had died while counting.
func TestCrashInJudge(t *testing.T) {
	faults := [][]uint64{{2, 4, 6}, {8, 4}, {4, 10, 12, 14}, {}, {4, 10}, {10}}
	seen := points{}
	// judged gives the verdicts, with deaths at the k-th and m-th point of the i-th.
	judged := func(at int, k, m int64) (verdicts [][]uint64, first, second string) {
		c := &crashRecord{}
		for i, open := range faults {
			c.unjudged.Store(unjudgedAll)
			if i == at {
				if first = seen.dies(k, func() { c.accuse(open) }); first != "" && m > 0 && c.unjudged.Load() != 0 {
					second = seen.dies(m, func() { c.accuse(open) })
				}
			}
			if err := c.check(); err != nil {
				t.Errorf("fault %d, died at %q and %q: %v", i, first, second, err)
			}
			if c.unjudged.Load() != 0 { // as who is told to go learns from the keeper
				c.accuse(open)
			}
			verdicts = append(verdicts, c.condemned())
			for n, s := range c.suspect[:c.suspects.Load()] {
				if s.id != open[n] {
					t.Errorf("fault %d, died at %q and %q: suspect is %d, which was not open", i, first, second, s.id)
				}
			}
		}
		return verdicts, first, second
	}
	want, _, _ := judged(-1, 0, 0)
	if text := fmt.Sprint(want); text != "[[] [4] [4] [] [] [10]]" {
		t.Fatalf("condemned are %v", text)
	}
	for i := range faults {
		for k, first := int64(1), "?"; first != ""; k++ {
			for m, second := int64(0), "?"; second != "" || m == 1; m++ {
				var got [][]uint64
				if got, first, second = judged(i, k, m); fmt.Sprint(got) != fmt.Sprint(want) {
					t.Errorf("fault %d, died at %q and %q: condemned are %v, want %v", i, first, second, got, want)
				}
			}
		}
	}
	seen.has(t, "crash.verdict", "crash.judge", "crash.judged", "crash.suspect", "crash.suspect.times", "crash.suspects", "crash.accused")
}

// Workers that die while they take over, or tell what came again, lose nothing of
// what those before have counted, and count nothing twice.
func TestCrashInCounts(t *testing.T) {
	seen := points{}
	told := fuseconn.Stats{Resent: 3, Poisoned: 1}
	for at := range 4 {
		for k, point := int64(1), "?"; point != ""; k++ {
			c := &crashRecord{}
			c.resent.Store(100)
			var least, most uint64
			for i := range 4 {
				live := func() {
					before := c.again()
					c.recovered(blockdev.Recovered{Reclaimed: 2})
					c.came(before, told)
					c.came(before, told) // it is told again and again
				}
				if i != at {
					live()
					least, most = least+3, most+3
				} else if point = seen.dies(k, live); point == "" {
					least, most = least+3, most+3
				} else {
					most += 3
				}
				if n := c.resent.Load() + c.resentNow.Load() - 100; n < least || n > most {
					t.Errorf("worker %d died at %q: after %d workers %d requests came again, want %d to %d", at, point, i+1, n, least, most)
				}
				if n := c.poisonedNow.Load(); n < least/3 || n > most/3 {
					t.Errorf("worker %d died at %q: after %d workers %d requests were refused, want %d to %d", at, point, i+1, n, least/3, most/3)
				}
			}
			if n := c.reclaimed.Load(); n != 8 && (n != 6 || point != "crash.recovered") {
				t.Errorf("worker %d died at %q: %d objects were reclaimed", at, point, n)
			}
		}
	}
	seen.has(t, "crash.recovered", "crash.reclaimed", "crash.answer", "crash.came", "crash.came.resent", "crash.came.poisoned")
}

// answering is a connection that has answered.
type answering struct {
	fuseconn.Conn
	stats fuseconn.Stats
}

func (a answering) Stats() fuseconn.Stats { return a.stats }

// A worker that dies while it tells when it first answered leaves the time of that or
// none, and none when the next one takes over.
func TestCrashInPublish(t *testing.T) {
	seen := points{}
	for k := int64(1); k <= 4; k++ { // to the end of the first round; it sleeps between these
		h := idleKeeper(t).header
		c := h.crash()
		c.died(1000, "a reason")
		w := &worker{header: h}
		point := seen.dies(k, func() { w.publish(answering{stats: fuseconn.Stats{FirstAnswer: 3000, Resent: 5}}) })
		if got := c.recovery().Nanoseconds(); got != 2000 {
			t.Errorf("died at %q: recovery took %d ns", point, got)
		}
		if n := c.resentNow.Load(); n != 0 && n != 5 {
			t.Errorf("died at %q: %d requests came again", point, n)
		}
		c.died(5000, "another")
		c.recovered(blockdev.Recovered{})
		if got := c.recovery(); got != 0 {
			t.Errorf("died at %q: the next one, which has not answered, took %v", point, got)
		}
	}
	seen.has(t, "crash.answered", "crash.came", "crash.came.resent", "crash.came.poisoned")
}

// faulty is a worker that ended by a fault.
func faulty(t *testing.T, k *keeper) *process {
	p := sleeper(t, k, serving)
	p.status = death{fault: true, text: "signal: segmentation fault"}
	return p
}

// A worker dies by a fault, and the keeper dies at every point while it notes that
// and has the standby take over, which does so alone then, and whoever comes after
// it if it dies while it does. Each death counts once, the fault is judged at most
// once, and there is one who serves.
func TestCrashWithItsKeeper(t *testing.T) {
	seen := points{}
	for _, upgrade := range []bool{false, true} {
		for k, first := int64(1), "?"; first != ""; k++ {
			for m, second := int64(0), "?"; second != "" || m == 1; m++ {
				t.Run(fmt.Sprintf("%v %d.%d", upgrade, k, m), func(t *testing.T) {
					first, second = crashWithItsKeeper(t, seen, upgrade, k, m)
				})
			}
		}
	}
	seen.has(t, "crash.died", "crash.died.reason", "crash.died.length", "crash.died.at", "crash.died.noted", "crash.deaths",
		"keeper.lost.fault", "keeper.lost.faults", "keeper.lost", "keeper.note", "keeper.noted", "keeper.order",
		"crash.goes", "crash.goes.deaths", "crash.goes.worker", "crash.follow.noted", "crash.follow")
}

// crashWithItsKeeper has the keeper die at its k-th point, and with m the first
// standby that takes over at its m-th. It says where; "" is nowhere. In an upgrade
// the worker was killed for a candidate, which is no death unless the keeper died
// before it had noted that.
func crashWithItsKeeper(t *testing.T, seen points, upgrade bool, k, m int64) (first, second string) {
	kp := idleKeeper(t)
	c := kp.header.crash()
	kp.worker, kp.standby = faulty(t, kp), sleeper(t, kp, prepared)
	next := int64(kp.standby.pid)
	c.generations.Store(2)
	c.goes(int64(kp.worker.pid))
	c.standby.Store(next)
	c.died(1, strings.Repeat("the reason before ", 5))
	noted := uint64(1)
	if upgrade {
		kp.trial, kp.standby = &trial{candidate: kp.standby, began: true}, nil
		kp.worker.status = death{slain: true, text: "signal: killed"}
		kp.kill(kp.worker, "signal for the upgrade")
		c.standby.Store(0)
		noted = 0
	}
	if first = seen.dies(k, func() { end(kp, kp.worker) }); first == "" {
		if c.deaths.Load() != noted || c.faults.Load() != noted || c.unjudged.Load() != noted*unjudgedAll || c.worker.Load() != next ||
			c.generations.Load() != 3 || c.standby.Load() != 0 {
			t.Errorf("nobody died: %d deaths, %d faults, worker %d, generation %d", c.deaths.Load(), c.faults.Load(),
				c.worker.Load(), c.generations.Load())
		}
		return first, ""
	}
	var o order
	self, deaths := next, uint64(1)
	if m > 0 {
		second = seen.dies(m, func() { o = c.follow(self, c.worker.Load()) })
	}
	if second != "" {
		if c.worker.Load() == self {
			deaths++ // its own, as a worker
		}
		self++ // another one that waited
	}
	if m == 0 || second != "" {
		o = c.follow(self, c.worker.Load())
	}
	if n := c.deaths.Load(); n != deaths && (!upgrade || n+1 != deaths) {
		t.Errorf("died at %q and %q: %d deaths are counted, of %d", first, second, n, deaths)
	}
	if n := c.faults.Load(); n > 1 || n == 1 && c.unjudged.Load() == 0 || o.Fault != (c.unjudged.Load() != 0) {
		t.Errorf("died at %q and %q: %d faults, to be judged %d, and who follows does: %v", first, second, n, c.unjudged.Load(), o.Fault)
	}
	if c.worker.Load() != self || c.standby.Load() != 0 || !o.Resume {
		t.Errorf("died at %q and %q: worker is %d, standby %d, want %d and none; resumes %v", first, second,
			c.worker.Load(), c.standby.Load(), self, o.Resume)
	}
	if n := c.generations.Load(); n <= 2 || n > 5 || int(n) != o.Generation {
		t.Errorf("died at %q and %q: generation %d, and it is told %d", first, second, n, o.Generation)
	}
	if text := c.lastReason(); !strings.HasPrefix(text, "signal") && !strings.HasPrefix(text, "it died") {
		t.Errorf("died at %q and %q: the last reason is %q", first, second, text)
	}
	if c.diedAt.Load() == 1 {
		t.Errorf("died at %q and %q: the time of the death is that of another", first, second)
	}
	return first, second
}

// A keeper that dies while it notes why a worker died leaves the reason before, the
// new one or none: not half of one.
func TestCrashInReason(t *testing.T) {
	seen := points{}
	before, after := strings.Repeat("before ", 20), strings.Repeat("after ", 30)
	for k, point := int64(1), "?"; point != ""; k++ {
		c := &crashRecord{}
		c.died(1, before)
		point = seen.dies(k, func() { c.died(2, after) })
		if text := c.lastReason(); text != before && text != after && text != "" || point == "" && text != after {
			t.Errorf("died at %q: the reason is %q", point, text)
		}
	}
	seen.has(t, "crash.died", "crash.died.reason", "crash.died.length", "crash.died.at", "crash.died.noted")
}
