package pool

import (
	"bytes"
	"testing"
)

// TestWipeLeavesNothing: once all objects are wiped, their bytes and headers
// are nowhere, whether compaction moved them, tried to, or left them alone.
func TestWipeLeavesNothing(t *testing.T) {
	const owners = 3000
	r := newRig(t, 4, 2, owners, reserve(8<<20, 8<<20)) // nothing is punched
	r.maintain()
	for i := range uint32(owners) {
		size := 300 + int(i%7)*100
		if i%50 == 0 {
			size = PageSize
		}
		r.store(int(i%2), i, size)
	}
	for i := range uint32(owners) {
		if i%3 != 0 {
			r.drop(i, r.pool.Wipe)
		}
	}
	r.refuse = func(owner uint32) bool { return owner%6 == 0 }
	if _, err := r.pool.Compact(r); err != nil {
		t.Fatal(err)
	}
	r.check()
	if moved := r.pool.Stats().Moved; moved == 0 {
		t.Error("nothing was moved")
	}
	for i := range uint32(owners) {
		r.drop(i, r.pool.Wipe)
	}
	r.check()
	for name, m := range map[string]*memory{"arena": r.arena, "side array": r.side} {
		if left := len(m.buf) - bytes.Count(m.buf, []byte{0}); left != 0 {
			t.Errorf("%d bytes are left in the %s", left, name)
		}
	}
}
