//go:build crashpoints

package blockdev

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/zramfs/zramfs/internal/invariants"
)

// climbHistory fills a disk with small objects, frees most of them, and has the
// ladder climbed for a limit that is lowered again and again, with writes between.
func climbHistory(size int64) []operation {
	var ops []operation
	slots := uint64(size / PageSize)
	for slot := range slots {
		ops = append(ops, operation{kind: 'w', off: int64(slot) * PageSize, n: PageSize, fill: small(slot)})
	}
	for slot := range slots {
		if slot%4 != 0 {
			ops = append(ops, operation{kind: 'd', off: int64(slot) * PageSize, n: PageSize})
		}
	}
	for slot := uint64(1); slot < slots; slot += 48 {
		ops = append(ops, operation{kind: 'l', n: int64(slots-slot) * PageSize / 48},
			operation{kind: 'w', off: int64(slot) * PageSize, n: PageSize, fill: small(slot + slots)})
	}
	return append(ops, operation{kind: 'l', n: PageSize}, operation{kind: 'm'})
}

// climbUnder climbs the ladder of a disk without goroutines, for a limit.
func (d *disk) climbUnder(limit int64) {
	p := limitPolicy{rungs: [...]rungNumber{rungCompact, rungRecompress, rungWriteback}}
	d.ladder.policy.Store(&p)
	d.account.limit.Store(limit / PageSize)
	d.ladder.asked.Store(true)
	d.climb()
	d.account.limit.Store(0)
}

// A worker that dies anywhere on the ladder leaves every page what it was.
func TestCrashOnTheLadder(t *testing.T) {
	const size = 288 * PageSize
	seen := map[string]int{}
	crashEverywhere(t, climbHistory(size), size, 0, 37, 1<<40, seen)
	crashEverywhere(t, climbHistory(size), size, 0, 1, 40, seen, "pool.move")
	for _, point := range []string{"pool.move.begin", "pool.move.half", "pool.move.copied", "pool.move.published"} {
		if seen[point] == 0 {
			t.Errorf("nobody died at %s: %v", point, seen)
		}
	}
}

// A worker that dies while it resizes leaves the old size or the new one, and
// nothing of the pages that are on both.
func TestCrashInResize(t *testing.T) {
	const small, large = 700, 3000 // pages
	seen := map[string]int{}
	for k := int64(1); ; k++ {
		src := newSource(t)
		o := crashOptions(t, small*PageSize, 0)
		o.streams, o.reach = 2, large*PageSize
		d, pages := filledDisk(t, src, o, 8)
		sizes := []uint64{small, large, 1100, 2048, small}
		was, next := uint64(small), uint64(small)
		invariants.Arm(k, "resize.")
		point := invariants.DiesAt(func() {
			for _, slots := range sizes[1:] {
				was, next = next, slots
				var err error
				if slots > was {
					if err = d.grow(slots); err == nil { // a page of zeroes, which leaves tables behind
						for slot := was; slot < slots; slot += slotsPerTablePage / 2 {
							d.table.store(slot, sameWord(slot, 7))
							d.table.store(slot, 0)
						}
					}
				} else {
					err = d.shrink(slots)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			was = next
		})
		invariants.Arm(0)
		seen[point]++
		after, err := adoptDisk(d.region, o)
		if err != nil {
			t.Fatalf("k %d, died at %s: %v", k, point, err)
		}
		if n := after.table.slots(); n != was && n != next {
			t.Fatalf("k %d, died at %s: %d slots, want %d or %d", k, point, n, was, next)
		}
		got := make([]byte, PageSize)
		for slot, want := range pages {
			if err := after.readPage(0, uint64(slot), 0, got); err != nil || !bytes.Equal(got, want) {
				t.Fatalf("k %d, died at %s: slot %d: %v", k, point, slot, err)
			}
		}
		if top, any := after.table.highest(small); any {
			t.Fatalf("k %d, died at %s: page %d is in use", k, point, top)
		}
		if err := after.check(); err != nil {
			t.Fatalf("k %d, died at %s: %v", k, point, err)
		}
		// And it can be resized again, to where it was going.
		if after.table.slots() < next {
			err = after.grow(next)
		} else if after.table.slots() > next {
			err = after.shrink(next)
		}
		if err != nil || after.table.slots() != next {
			t.Fatalf("k %d, died at %s: again: %v", k, point, err)
		}
		src.Drop("zram0", d.region)
		if point == "" {
			break
		}
	}
	for _, point := range []string{"resize.publish", "resize.published", "resize.forget", "resize.punch"} {
		if seen[point] == 0 {
			t.Errorf("nobody died at %s: %v", point, seen)
		}
	}
}

// Of a size's two words no mixture is taken for one: whatever bit is lost, the
// disk is refused.
func TestDamagedSlots(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 3))
	for range 1000 {
		w := sealSlots(1 + r.Uint64N(MaxSize/PageSize))
		bit := r.IntN(64)
		if n, ok := openSlots(w ^ 1<<bit); ok {
			t.Errorf("word %#x without bit %d is %d slots", w, bit, n)
		}
	}
}
