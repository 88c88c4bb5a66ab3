package pool

import (
	"errors"
	"flag"
	"testing"

	"pgregory.net/rapid"
)

// TestModel runs random operations on a pool and on a table of what should be
// stored, with a check every 200 operations and at the end.
func TestModel(t *testing.T) {
	if err := flag.Set("rapid.steps", "120"); err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(rt *rapid.T) {
		r := newRig(t, 3, 3, 400, reserve(64<<10, 512<<10))
		r.account.limit.Store(int64(rapid.SampledFrom([]int{150, 600, 1 << 20}).Draw(rt, "limit")))
		owner, slab := rapid.Uint32Range(0, 399), rapid.IntRange(0, 2)
		size := rapid.OneOf(rapid.IntRange(1, 3624), rapid.Just(PageSize), rapid.IntRange(1200, 1600))
		ops := 0
		put := func(rt *rapid.T) {
			err := r.put(slab.Draw(rt, "slab"), owner.Draw(rt, "owner"), size.Draw(rt, "size"))
			if errors.Is(err, ErrNoRoom) {
				r.maintain()
			} else if err != nil && !errors.Is(err, ErrLimit) && !errors.Is(err, ErrFull) {
				rt.Fatal(err)
			}
		}
		rt.Repeat(map[string]func(*rapid.T){
			"put": put,
			"puts": func(rt *rapid.T) {
				for range rapid.IntRange(1, 50).Draw(rt, "n") {
					put(rt)
				}
			},
			"free": func(rt *rapid.T) { r.free(owner.Draw(rt, "owner")) },
			"frees": func(rt *rapid.T) {
				first, step := owner.Draw(rt, "first"), rapid.Uint32Range(1, 9).Draw(rt, "step")
				for o := first; o < 400; o += step {
					r.free(o)
				}
			},
			"get": func(rt *rapid.T) { r.get(owner.Draw(rt, "owner")) },
			"maintain": func(rt *rapid.T) {
				if _, err := r.pool.Maintain(); err != nil {
					rt.Fatal(err)
				}
			},
			"compact": func(rt *rapid.T) {
				n := rapid.Uint32Range(0, 5).Draw(rt, "refuse")
				r.refuse = func(o uint32) bool { return n != 0 && o%5 < n }
				before := r.pool.Stats().Pages
				freed, err := r.pool.Compact(r)
				if err != nil || before-freed != r.pool.Stats().Pages {
					rt.Fatalf("compact: %d pages, %v", freed, err)
				}
			},
			"rebuild": func(rt *rapid.T) {
				if err := r.next(); err != nil {
					rt.Fatal(err)
				}
			},
			"reset": func(rt *rapid.T) {
				if rapid.IntRange(0, 9).Draw(rt, "really") != 0 {
					return
				}
				for i := range r.slots {
					r.slots[i].size = 0
				}
				if err := r.pool.Reset(); err != nil {
					rt.Fatal(err)
				}
			},
			"": func(rt *rapid.T) {
				if ops++; ops%200 == 0 {
					r.check()
				}
				if got := r.arena.resident(); got < r.pool.Stats().Committed {
					rt.Fatalf("%d pages are committed, %d exist", r.pool.Stats().Committed, got)
				}
			},
		})
		r.check()
	})
}
