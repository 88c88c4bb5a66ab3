//go:build crashpoints

package fuseconn

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"slices"
	"syscall"
	"testing"

	"github.com/zramfs/zramfs/internal/invariants"
)

// controlAll does all that the control thread has to do.
func controlAll(c *control) {
	for {
		select {
		case s := <-c.slow.ended:
			c.retire(s)
			continue
		default:
		}
		select {
		case s := <-c.todo:
			c.releaseAll()
			c.serve(s)
			continue
		default:
		}
		if len(c.releases) == 0 {
			return
		}
		c.releaseAll()
	}
}

// crashRig is a transport with workers that die.
type crashRig interface {
	start()              // a worker, which may come after another
	serve(batch []*call) // what is not answered
	inFlight() []uint64
	buried()     // the worker is dead
	rest() error // an error if the worker, which has nothing to do, has not all its buffers
}

// crashHistory has requests served by workers of which one dies at its k-th point
// and, with m, the next one at its m-th, before it has caught up. It says where
// the last of them died that did, "" if one did not come to its point.
func crashHistory(w *world, r crashRig, batches [][]*call, k, m int64) (point string) {
	deaths := 0
	live := func(f func()) bool {
		at := invariants.DiesAt(f)
		if at == "" {
			return true
		}
		deaths, point = deaths+1, at
		w.died(at, r.inFlight())
		r.buried()
		invariants.Arm(0)
		if deaths == 1 && m > 0 {
			point = ""
			invariants.Arm(m, "conn.", "ring.", "world.")
		}
		return false
	}
	invariants.Arm(k, "conn.", "ring.", "world.")
	defer invariants.Arm(0)
	started := false
	for i := 0; i < len(batches); {
		if !started {
			started = live(r.start)
			continue
		}
		if !live(func() { r.serve(batches[i]) }) {
			started = false
			continue
		}
		if deaths > 0 {
			invariants.Arm(0)
		}
		i++
		clear(w.begun)
	}
	return point
}

// crashEverywhere dies at every point of a history, and at every step-th of what
// the next worker has to catch up with; at each of them with ZRAMFS_LONG=1.
func crashEverywhere(t *testing.T, step int64, begin func() [][]*call, rig func(w *world) crashRig) (seen map[string]int) {
	if os.Getenv("ZRAMFS_LONG") == "1" {
		step = 1
	}
	seen = map[string]int{}
	answers, state := map[uint64]string{}, ""
	look := func(w *world, r crashRig, what string) {
		if err := r.rest(); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if open := r.inFlight(); len(open) != 0 {
			t.Errorf("%s: %v seem to be in flight", what, open)
		}
		for id, c := range w.calls {
			if !c.answered || c.answer != answers[id] {
				t.Errorf("%s: %s: answered %v: %.80q, want %.80q", what, c.name, c.answered, c.answer, answers[id])
			}
		}
		if got := w.state(); got != state {
			t.Errorf("%s: there is %q, want %q", what, got, state)
		}
	}
	run := func(k, m int64) string {
		batches := begin()
		w := newWorld(t, batches)
		r := rig(w)
		point := crashHistory(w, r, batches, k, m)
		if k == 0 {
			for id, c := range w.calls {
				answers[id] = c.answer
			}
			state = w.state()
			checkCalm(t, w)
		}
		look(w, r, fmt.Sprintf("k %d, m %d, died at %q", k, m, point))
		seen[point]++
		return point
	}
	run(0, 0)
	runs := 0
	for k := int64(1); run(k, 0) != "" && !t.Failed(); k++ {
		for m := 1 + k%step; run(k, m) != "" && !t.Failed(); m += step {
			runs++
		}
	}
	t.Logf("%d deaths while the next worker took over", runs)
	return seen
}

// checkCalm looks at the answers where nobody dies.
func checkCalm(t *testing.T, w *world) {
	for _, c := range w.calls {
		want := syscall.Errno(0)
		if c.name == "beyond the end" {
			want = syscall.ENOSPC
		}
		if !bytes.HasPrefix([]byte(c.answer), []byte(want.Error())) {
			t.Errorf("%s: %.80q", c.name, c.answer)
		}
		if data := w.disk[:8192]; c.name == "all" && c.answer != want.Error()+" "+string(w.disk[:worldAt/2]) {
			t.Errorf("the disk begins with %q, and it was read as %.80q", data[:16], c.answer)
		}
	}
	if want := "100:100:c\n1000:1000:d\n4096:4096:e\n10:10:f\n4096:4096:g\n"; string(w.notes) != want {
		t.Errorf("written to files were %q, want %q", w.notes, want)
	}
}

// mustHaveDied says which points nobody died at.
func mustHaveDied(t *testing.T, seen map[string]int, points ...string) {
	t.Helper()
	for _, p := range points {
		if seen[p] == 0 {
			t.Errorf("nobody died at %s", p)
		}
	}
	t.Log(slices.Sorted(maps.Keys(seen)))
}

// crashRefused has a worker die in a request, and the next ones refuse it. They die
// at every point of that: it is refused once, and nothing was done.
func crashRefused(t *testing.T, begin func() [][]*call, rig func(w *world) crashRig) (seen map[string]int) {
	seen = map[string]int{}
	for m := int64(1); ; m++ {
		batches := begin()
		w := newWorld(t, batches)
		r := rig(w)
		batch := batches[len(batches)-1]
		c := batch[0]
		r.start()
		invariants.Arm(1, "world.enter")
		if point := invariants.DiesAt(func() { r.serve(batch) }); point == "" {
			t.Fatal("nobody died of it")
		}
		open := r.inFlight()
		w.died("world.enter", open)
		r.buried()
		w.poison = open
		invariants.Arm(m, "conn.", "ring.")
		point := invariants.DiesAt(func() {
			r.start()
			r.serve(batch)
		})
		invariants.Arm(0)
		if point != "" {
			w.died(point, r.inFlight())
			r.buried()
			r.start()
			r.serve(batch)
		}
		if want := syscall.EIO.Error() + " "; !c.answered || c.answer != want || len(w.begun) != 0 {
			t.Errorf("died at %q: answered %v: %s, want %s; begun %v", point, c.answered, c.answer, want, w.begun)
		}
		if err := r.rest(); err != nil {
			t.Errorf("died at %q: %v", point, err)
		}
		if seen[point]++; point == "" {
			return seen
		}
	}
}
