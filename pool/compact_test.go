package pool

import (
	"math/rand/v2"
	"testing"
)

// punched fills a rig and frees most of it at random, so that most zspages are
// nearly empty.
func punched(t *testing.T, slabs int) *rig {
	r := newRig(t, 16, slabs, 12000)
	rng := rand.New(rand.NewPCG(4, uint64(slabs)))
	for i := range uint32(12000) {
		r.store(int(i)%slabs, i, sizes(rng))
	}
	for i := range uint32(12000) {
		if rng.IntN(10) < 7 {
			r.free(i)
		}
	}
	return r
}

func TestCompactReturnsPages(t *testing.T) {
	for _, slabs := range []int{1, 2, 5} {
		r := punched(t, slabs)
		before := r.pool.Stats()
		freeable := Total(r.pool.Classes()).Freeable
		freed, err := r.pool.Compact(r)
		if err != nil {
			t.Fatal(err)
		}
		after := r.pool.Stats()
		if freed != before.Pages-after.Pages || freed != after.Compacted {
			t.Errorf("%d slabs: %d pages freed, from %+v to %+v", slabs, freed, before, after)
		}
		if freed != freeable {
			t.Errorf("%d slabs: freed %d of %d freeable pages", slabs, freed, freeable)
		}
		if left := Total(r.pool.Classes()).Freeable; left != 0 {
			t.Errorf("%d slabs: %d pages could still be freed", slabs, left)
		}
		if again, _ := r.pool.Compact(r); again != 0 {
			t.Errorf("%d slabs: the second compaction freed %d pages", slabs, again)
		}
		r.check()
	}
}

func TestCompactLeavesWhatCannotMove(t *testing.T) {
	r := punched(t, 2)
	r.refuse = func(owner uint32) bool { return owner%4 == 1 }
	before := r.pool.Stats()
	freed, err := r.pool.Compact(r)
	if err != nil {
		t.Fatal(err)
	}
	if freed == 0 || r.pool.Stats().Pages != before.Pages-freed {
		t.Errorf("freed %d of %d pages", freed, before.Pages)
	}
	r.check()
	r.refuse = func(uint32) bool { return true }
	moved := r.pool.Stats().Moved
	if freed, _ := r.pool.Compact(r); freed != 0 || r.pool.Stats().Moved != moved {
		t.Errorf("freed %d pages though nothing could move", freed)
	}
	r.check()
	r.refuse = nil
	if _, err := r.pool.Compact(r); err != nil {
		t.Fatal(err)
	}
	if left := Total(r.pool.Classes()).Freeable; left != 0 {
		t.Errorf("%d pages could still be freed", left)
	}
	r.check()
}

// Memory really comes back: from the zspages, and then from the region.
func TestCompactAndMaintainGiveBack(t *testing.T) {
	r := punched(t, 2)
	r.maintain()
	before := r.arena.resident()
	freed, err := r.pool.Compact(r)
	if err != nil {
		t.Fatal(err)
	}
	r.maintain()
	if after := r.arena.resident(); after > before-freed+freed/4 {
		t.Errorf("compaction freed %d pages, the arena went from %d to %d", freed, before, after)
	}
	r.check()
}
