//go:build crashpoints

package pool

import (
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/zramfs/zramfs/internal/invariants"
)

// TestEveryCrashPoint dies at the k-th crash point of a run of operations, for
// every k. The next generation has the shared memory and the words as they
// were at that instant; nothing published may be lost or wrong.
func TestEveryCrashPoint(t *testing.T) {
	seen := map[string]int{}
	for k := int64(1); ; k++ {
		r := newRig(t, 2, 2, 160, reserve(64<<10, 256<<10))
		crash, done := crashes(r, k)
		if done {
			break
		}
		seen[crash.Point]++
		for i := range r.slots { // the dead thread's lock, as Move may have held it
			r.slots[i].mu.TryLock()
			r.slots[i].mu.Unlock()
		}
		if err := r.next(); err != nil {
			t.Fatalf("died at %s (%d): %v", crash.Point, k, err)
		}
		r.check()
		work(r, 99) // and life goes on
		r.check()
	}
	for _, point := range []string{
		"pool.put.begin", "pool.put.half", "pool.put.bytes", "pool.put.header",
		"pool.huge.begin", "pool.huge.half", "pool.huge.bytes", "pool.huge.side",
		"pool.commit.begin", "pool.commit.side", "pool.commit.pages",
		"pool.punch.begin", "pool.punch.pages", "pool.punch.side",
		"pool.move.begin", "pool.move.half", "pool.move.copied", "pool.move.published",
		"pool.wipe.begin", "pool.wipe.half", "pool.wipe.side", "pool.wipe.end",
	} {
		if seen[point] == 0 {
			t.Errorf("never died at %s", point)
		}
	}
	t.Logf("died at %v", seen)
}

// crashes runs the operations up to the k-th crash point; done: there is none.
func crashes(r *rig, k int64) (crash invariants.Crash, done bool) {
	defer invariants.Arm(0)
	invariants.Arm(k)
	if at := invariants.Dies(func() { work(r, 1) }); at != nil {
		return *at, false
	}
	return crash, true
}

// work passes every crash point.
func work(r *rig, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 10))
	maintain := func() {
		for {
			if more, err := r.pool.Maintain(); err != nil {
				r.t.Fatal(err)
			} else if !more {
				return
			}
		}
	}
	for i := range uint32(160) {
		err := r.put(int(i%2), i, sizes(rng))
		for ; errors.Is(err, ErrNoRoom); err = r.put(int(i%2), i, sizes(rng)) {
			maintain()
		}
		if err != nil {
			r.t.Fatal(err)
		}
	}
	for i := range uint32(160) {
		if rng.IntN(3) != 0 {
			r.free(i)
		}
	}
	if _, err := r.pool.Compact(r); err != nil {
		r.t.Fatal(err)
	}
	maintain()
	for i := range uint32(160) {
		r.drop(i, r.pool.Wipe)
	}
	if err := r.pool.Reset(); err != nil {
		r.t.Fatal(err)
	}
}
