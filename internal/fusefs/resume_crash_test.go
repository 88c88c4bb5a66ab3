//go:build crashpoints

package fusefs

import (
	"testing"

	"github.com/zramfs/zramfs/internal/invariants"
)

// Die at every store to the ledgers of the tree and of the devices, and once
// more while the next worker takes up what is there.
func TestResumeCrashPoints(t *testing.T) {
	calls := history()
	answers, states := calm(t, calls)
	seen := map[string]int{}
	for i := range calls {
		for k := int64(1); dieIn(t, calls, answers, states, i, k, 0, seen) != ""; k++ {
			for m := int64(1); dieIn(t, calls, answers, states, i, k, m, seen) != ""; m++ {
			}
		}
	}
	for _, point := range []string{
		"tree.handle", "tree.open", "tree.release", "tree.released", "tree.op", "tree.begun", "tree.number",
		"tree.end", "tree.done", "tree.settle", "life.ledger.record", "life.ledger.published", "life.drop",
	} {
		if seen[point] == 0 {
			t.Errorf("nobody died at %s", point)
		}
	}
	t.Log(seen)
}

// dieIn dies at the k-th point of call i and, with m, at the m-th point of the
// resumption. It gives the last point where it died, "" if there is none.
func dieIn(t *testing.T, calls []call, answers, states []string, i int, k, m int64, seen map[string]int) (point string) {
	s := newSurvivor(t)
	w := s.worker()
	for j := range i {
		w.do(calls, j, false)
	}
	point = dying(k, func() { w.do(calls, i, false) })
	if point != "" {
		w.set.Abandon()
		if m != 0 {
			point = dying(m, func() { w = s.worker() })
			if point != "" {
				s.last.Abandon()
			}
		}
		if m == 0 || point != "" {
			seen[point]++
			w = s.worker()
		}
		if got := w.do(calls, i, true); got != answers[i] {
			t.Errorf("call %d (%+v) died at %s: answer %s, want %s", i, calls[i], point, got, answers[i])
		}
		if got := w.state(); got != states[i] {
			t.Errorf("call %d (%+v) died at %s: there is\n%swant\n%s", i, calls[i], point, got, states[i])
		}
		for j := i + 1; j < len(calls); j++ {
			if got := w.do(calls, j, false); got != answers[j] {
				t.Fatalf("call %d (%+v) after the death in %d at %s: %s, want %s", j, calls[j], i, point, got, answers[j])
			}
		}
	}
	w.end()
	return point
}

func dying(k int64, f func()) (point string) {
	invariants.Arm(k, "tree.", "life.")
	defer invariants.Arm(0)
	return invariants.DiesAt(f)
}
