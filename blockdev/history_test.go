package blockdev

import (
	"encoding/binary"
	"hash/crc32"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/zramfs/zramfs/internal/invariants"
	"github.com/zramfs/zramfs/stable"
)

// tag writes who wrote a page, which of its writes it is, and a hash over it.
func tag(page []byte, writer, seq uint64) {
	binary.LittleEndian.PutUint64(page[0:], writer)
	binary.LittleEndian.PutUint64(page[8:], seq)
	binary.LittleEndian.PutUint32(page[16:], 0)
	binary.LittleEndian.PutUint32(page[16:], crc32.ChecksumIEEE(page))
}

// untag gives the sequence number, and whether the page is whole.
func untag(page []byte) (seq uint64, whole bool) {
	sum := binary.LittleEndian.Uint32(page[16:])
	binary.LittleEndian.PutUint32(page[16:], 0)
	return binary.LittleEndian.Uint64(page[8:]), crc32.ChecksumIEEE(page) == sum
}

// Each slot has one writer, and everybody reads everything, while compaction
// runs. What must hold:
//
//  1. a page is never torn: its hash is right;
//  2. a read that begins after a write was acknowledged never gives anything
//     older;
//  3. the last write of each slot is what the disk ends with.
func TestHistory(t *testing.T) {
	const slots, readers = 16, 4
	rounds := 4000
	if invariants.Enabled {
		rounds = 300
	}
	for _, frames := range []int{0, 6} {
		for _, p := range []stable.Policy{stable.Snapshot, stable.Wait} {
			cfg := testConfig(t)
			cfg.WriteBehind, cfg.Policy = frames, p
			d := newDevice(t, slots*PageSize, cfg)
			var acknowledged [slots]atomic.Uint64
			var writers, others sync.WaitGroup
			var stop atomic.Bool
			for w := range slots {
				writers.Go(func() {
					r := rand.New(rand.NewPCG(uint64(w), 7))
					for seq := uint64(1); seq <= uint64(rounds); seq++ {
						page := stamped(t, r.Uint64())
						tag(page, uint64(w), seq)
						if _, err := d.Do(&Request{Op: OpWrite, Data: page, Off: int64(w) * PageSize, Stream: w % 2}); err != nil {
							t.Error(err)
							return
						}
						acknowledged[w].Store(seq)
					}
				})
			}
			for i := range readers {
				others.Go(func() {
					r := rand.New(rand.NewPCG(uint64(i), 9))
					page := make([]byte, PageSize)
					for !stop.Load() {
						slot := r.IntN(slots)
						atLeast := acknowledged[slot].Load()
						if _, err := d.Do(&Request{Op: OpRead, Data: page, Off: int64(slot) * PageSize, Stream: i % 2}); err != nil {
							t.Error(err)
							return
						}
						if atLeast == 0 {
							continue
						}
						if seq, whole := untag(page); !whole || seq < atLeast {
							t.Errorf("slot %d: sequence %d, whole %v; %d was acknowledged before the read", slot, seq, whole, atLeast)
							return
						}
					}
				})
			}
			others.Go(func() {
				for !stop.Load() {
					if err := store(d, "compact", "1"); err != nil {
						t.Error(err)
						return
					}
				}
			})
			writers.Wait()
			stop.Store(true)
			others.Wait()
			for slot := range slots {
				if seq, whole := untag(read(t, d, PageSize, int64(slot)*PageSize)); !whole || seq != uint64(rounds) {
					t.Errorf("slot %d ends with sequence %d, whole %v, want %d", slot, seq, whole, rounds)
				}
			}
		}
	}
}
