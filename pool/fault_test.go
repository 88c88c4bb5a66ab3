package pool

import (
	"errors"
	"math/rand/v2"
	"testing"
)

// TestEveryCommitAndPunchFails lets the k-th call of the memory fail, for every
// k. Each failure must surface, once, and the pool goes on as if it had not
// been.
func TestEveryCommitAndPunchFails(t *testing.T) {
	for k := 1; ; k++ {
		r := newRig(t, 2, 2, 400, reserve(64<<10, 128<<10))
		fail := r.arena.fail
		fail.k = k
		failures := 0
		maintain := func() {
			for more := true; more; {
				var err error
				if more, err = r.pool.Maintain(); err != nil {
					if !errors.Is(err, errInjected) {
						t.Fatal(err)
					}
					failures++
					r.check()
					more = true
				}
			}
		}
		rng := rand.New(rand.NewPCG(7, 7))
		for i := range uint32(400) {
			for r.put(int(i%2), i, sizes(rng)) != nil {
				maintain()
			}
		}
		for i := range uint32(400) {
			if i%7 != 0 {
				r.free(i)
			}
		}
		maintain()
		if err := r.next(); err != nil {
			if !errors.Is(err, errInjected) {
				t.Fatal(err)
			}
			failures++
			if err := r.next(); err != nil {
				t.Fatal(err)
			}
		}
		r.check()
		for i := range r.slots {
			r.slots[i].size = 0
		}
		if err := r.pool.Reset(); err != nil {
			if !errors.Is(err, errInjected) {
				t.Fatal(err)
			}
			failures++
			r.check()
			if err := r.pool.Reset(); err != nil {
				t.Fatal(err)
			}
		}
		r.check()
		if got := r.arena.resident() + r.side.resident(); got != 0 {
			t.Fatalf("k = %d: %d pages are left after reset", k, got)
		}
		if fail.calls < k {
			if failures != 0 {
				t.Errorf("k = %d: %d failures without a fault", k, failures)
			}
			if k < 50 {
				t.Errorf("only %d calls were made to fail", k)
			}
			return
		}
		if failures != 1 {
			t.Fatalf("k = %d: %d failures surfaced", k, failures)
		}
	}
}

// TestEveryTakeIsRefused lets the account refuse the k-th time, for every k.
func TestEveryTakeIsRefused(t *testing.T) {
	for k := 1; ; k++ {
		r := newRig(t, 2, 2, 300)
		r.maintain()
		fail := &failer{k: k}
		r.account.fail = fail
		rng := rand.New(rand.NewPCG(8, 8))
		refused := 0
		for i := range uint32(300) {
			size := sizes(rng)
			for err := errInjected; err != nil; {
				switch err = r.put(int(i%2), i%200, size); {
				case errors.Is(err, ErrLimit):
					refused++
					r.check()
				case errors.Is(err, ErrNoRoom):
					r.maintain()
				case err != nil:
					t.Fatalf("k = %d: %v", k, err)
				}
			}
		}
		r.check()
		if fail.calls < k {
			return
		}
		// A refusal is not seen when another slab had an open zspage to fill.
		if refused > 1 {
			t.Fatalf("k = %d: %d refusals", k, refused)
		}
	}
}
