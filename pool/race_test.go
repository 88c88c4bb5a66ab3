package pool

import (
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
)

// TestEverythingAtOnce: streams that store, read and free each other's objects,
// while one thread compacts and one maintains.
func TestEverythingAtOnce(t *testing.T) {
	const streams, owners = 4, 3000
	rounds := 30000
	if testing.Short() {
		rounds = 5000
	}
	r := newRig(t, 8, streams, owners, reserve(512<<10, 1<<20))
	r.maintain()
	r.account.limit.Store(1500)
	var work, background sync.WaitGroup
	var stop atomic.Bool
	var refused, noRoom atomic.Int64
	// An owner is written by one stream at a time, as the disk's slots are.
	var owned [owners]sync.Mutex
	for s := range streams {
		work.Go(func() {
			rng := rand.New(rand.NewPCG(9, uint64(s)))
			for range rounds {
				o := uint32(rng.IntN(owners))
				if rng.IntN(3) == 0 {
					r.get(o)
					continue
				}
				if !owned[o].TryLock() {
					continue
				}
				if rng.IntN(4) == 0 {
					r.drop(o, r.pool.Wipe)
				} else if err := r.put(s, o, sizes(rng)); errors.Is(err, ErrLimit) {
					refused.Add(1)
				} else if errors.Is(err, ErrNoRoom) {
					noRoom.Add(1)
				} else if err != nil {
					t.Error(err)
				}
				owned[o].Unlock()
			}
		})
	}
	background.Go(func() {
		for !stop.Load() {
			if _, err := r.pool.Compact(r); err != nil {
				t.Error(err)
			}
			Total(r.pool.Classes())
		}
	})
	background.Go(func() {
		for !stop.Load() {
			<-r.pool.Wake()
			for more := true; more; {
				var err error
				if more, err = r.pool.Maintain(); err != nil {
					t.Error(err)
				}
			}
		}
	})
	work.Wait()
	stop.Store(true)
	r.pool.rouse()
	background.Wait()
	st := r.pool.Stats()
	if st.Moved == 0 || st.Compacted == 0 {
		t.Errorf("compaction did nothing meanwhile: %+v", st)
	}
	t.Logf("%+v, %d refused, %d without room", st, refused.Load(), noRoom.Load())
	r.check()
	if _, err := r.pool.Compact(r); err != nil {
		t.Fatal(err)
	}
	if left := Total(r.pool.Classes()).Freeable; left != 0 {
		t.Errorf("%d pages could still be freed", left)
	}
	r.check()
}
