//go:build crashpoints

package blockdev

import (
	"fmt"
	"testing"

	"github.com/zramfs/zramfs/internal/invariants"
)

// lifeOps is a list of control operations: each is one change of the ledger,
// or two words for the ones that are none.
func lifeOps() []func(*Set) error {
	set := func(id int, name, value string) func(*Set) error {
		return func(s *Set) error { return store(s.Device(id), name, value) }
	}
	add := func(s *Set) error { _, err := s.HotAdd(); return err }
	fill := func(s *Set) error {
		for slot := range int64(8) {
			page := make([]byte, PageSize)
			copy(page, fmt.Sprintf("page %d", slot))
			if _, err := s.Device(0).WriteAt(page, slot*PageSize); err != nil {
				return err
			}
		}
		return nil
	}
	remove := func(id int) func(*Set) error { return func(s *Set) error { return s.HotRemove(id) } }
	return []func(*Set) error{
		add, add, set(0, "comp_algorithm", "zstd"), set(0, "algorithm_params", "level=7"), set(0, "write_behind", "4"),
		set(0, "disksize", "1M"), fill, set(0, "mem_limit", "512K"), set(0, "stable", "wait"), set(1, "disksize", "2M"),
		set(1, "reset", "1"), set(1, "disksize", "3M"), remove(1), add, set(0, "stable", "snapshot"), set(0, "reset", "1"),
		set(0, "disksize", "2M"), fill, remove(0), remove(1), add,
	}
}

// portrait is everything that must survive, of all devices.
func portrait(tb testing.TB, s *Set) string {
	text := ""
	for _, d := range s.Devices() {
		text += d.Name() + ":"
		for _, name := range []string{"disksize", "algorithm", "stable", "write_behind"} {
			text += " " + show(tb, d, name)
		}
		m := d.memory()
		text += fmt.Sprint(m.limit, m.pages)
		if d.Size() != 0 {
			text += fmt.Sprintf(" %q", read(tb, d, PageSize, 3*PageSize)[:6])
		}
		text += "\n"
	}
	return text
}

// Die at every step of every control operation: the next generation has what
// there was before the operation, or what it was making, and the count of
// changes tells which. No region is left over, and the operation done again
// ends as if nobody had died.
func TestLifeCrashPoints(t *testing.T) {
	seen := map[string]int{}
	for i := range lifeOps() {
		for k := int64(1); lifeCrash(t, i, k, seen); k++ {
		}
	}
	for _, point := range []string{
		"life.ledger.record", "life.ledger.published", "life.region", "life.layout", "life.layout.written", "life.params", "life.drop",
	} {
		if seen[point] == 0 {
			t.Errorf("nobody died at %s", point)
		}
	}
	t.Log(seen)
}

// lifeCrash does the operations before the i-th, dies in that at the k-th
// point, and looks. False: it has no k-th point.
func lifeCrash(t *testing.T, i int, k int64, seen map[string]int) bool {
	h, ledger, ops := newHolder(t), make([]byte, LedgerBytes), lifeOps()
	s, _ := generation(t, h, ledger)
	for _, op := range ops[:i] {
		if err := op(s); err != nil {
			t.Fatal(err)
		}
	}
	before, changes := portrait(t, s), s.Changes()
	invariants.Arm(k, "life.")
	point, err := dying(func() error { return ops[i](s) })
	invariants.Arm(0)
	if err != nil {
		t.Fatal(err)
	}
	if point == "" {
		closeSet(t, s)
		return false
	}
	seen[point]++
	s.Abandon()

	next, _ := generation(t, h, ledger)
	took := next.Changes() != changes
	if !took {
		if got := portrait(t, next); got != before {
			t.Fatalf("operation %d died at %s and never was, but there is\n%s, there was\n%s", i, point, got, before)
		}
		if err := ops[i](next); err != nil {
			t.Fatalf("operation %d, again after %s: %v", i, point, err)
		}
	}
	disks := 0
	for _, d := range next.Devices() {
		if d.Size() != 0 {
			disks++
		}
	}
	if len(h.held) != disks {
		t.Errorf("operation %d died at %s: %d regions for %d disks", i, point, len(h.held), disks)
	}
	got := portrait(t, next)
	closeSet(t, next)

	// The same without a death.
	h2 := newHolder(t)
	calm, _ := generation(t, h2, make([]byte, LedgerBytes))
	for _, op := range ops[:i+1] {
		if err := op(calm); err != nil {
			t.Fatal(err)
		}
	}
	if want := portrait(t, calm); got != want {
		t.Errorf("operation %d died at %s (took effect: %v): there is\n%s, want\n%s", i, point, took, got, want)
	}
	closeSet(t, calm)
	return true
}

// dying runs f and says at which point it died, "" if it did not.
func dying(f func() error) (point string, err error) {
	point = invariants.DiesAt(func() { err = f() })
	return point, err
}
