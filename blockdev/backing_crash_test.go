//go:build crashpoints

package blockdev

import (
	"bytes"
	"context"
	"testing"

	"github.com/zramfs/zramfs/internal/invariants"
)

// pageOf gives a slot's page on a disk without goroutines, wherever it is.
func pageOf(t *testing.T, d *disk, slot uint64) []byte {
	t.Helper()
	page := make([]byte, PageSize)
	if err := d.readAnywhere(slot, page); err != nil {
		t.Fatalf("slot %d: %v", slot, err)
	}
	return page
}

// A worker that dies at any store of writeback, of the overwriting and discarding
// of pages on the device, and of their return to RAM, leaves to the next one a
// disk that has each page as it was before or as it is after.
func TestCrashInWriteback(t *testing.T) {
	const size = 9 * PageSize
	element := bytes.Repeat([]byte("8 bytes."), PageSize/8)
	seen := map[string]int{}
	packed := false
	for k := int64(1); ; k++ {
		src, m := newSource(t), newMemBacking(32)
		o := crashOptions(t, size, 0)
		o.backing, o.backSettings = m, backSettings{packed: packed, limited: true, batch: 4, promote: 60}
		o.budget = 100
		d, err := createDisk(src, "zram0", o)
		if err != nil {
			t.Fatal(err)
		}
		if err := d.fillReserve(); err != nil {
			t.Fatal(err)
		}
		model, next := make([][]byte, size/PageSize), make([][]byte, size/PageSize)
		put := func(slot int, page []byte) {
			next[slot] = page
			if err := d.do(operation{kind: 'w', off: int64(slot) * PageSize, n: PageSize, fill: page}); err != nil {
				t.Fatal(err)
			}
			model[slot] = page
		}
		back := func() {
			if _, err := d.writebackPass(context.Background(), writebackOptions{selectors: []selector{{}}}); err != nil {
				t.Fatal(err)
			}
		}
		for slot := range model {
			model[slot] = make([]byte, PageSize)
			next[slot] = model[slot]
			if slot%3 == 0 {
				put(slot, incompressible())
			} else {
				put(slot, stamped(t, uint64(slot)))
			}
		}
		invariants.Arm(k)
		point := invariants.DiesAt(func() {
			back()
			put(1, element)
			put(2, stamped(t, 99))
			put(3, bytes.Repeat([]byte{7}, PageSize))
			next[4] = make([]byte, PageSize)
			d.emptySlot(0, 4)
			model[4] = next[4]
			back()
			var f fetcher
			f.init(0, d.back.key)
			for slot := uint64(5); slot < 8; slot++ {
				w, err := d.fetchPage(&f, slot)
				if err != nil {
					t.Fatal(err)
				}
				d.promote(&f, slot, w)
				d.back.blocks.letGo(w)
			}
			back()
		})
		invariants.Arm(0)
		seen[point]++
		d, err = adoptDisk(d.region, o)
		if err != nil {
			t.Fatal(err)
		}
		for slot := range model {
			if got := pageOf(t, d, uint64(slot)); !bytes.Equal(got, model[slot]) && !bytes.Equal(got, next[slot]) {
				t.Fatalf("k %d, died at %s: slot %d: %s", k, point, slot, firstDifference(got, model[slot]))
			}
		}
		if err := d.check(); err != nil {
			t.Fatalf("k %d, died at %s: %v", k, point, err)
		}
		src.Drop("zram0", d.region)
		if point != "" {
			continue
		}
		if packed {
			break
		}
		packed, k = true, 0
	}
	for _, point := range []string{"backed.element", "backed.element.stored", "backed.budget", "table.store", "table.stored", "table.element",
		"table.element.stored", "table.wipe", "pool.put.bytes"} {
		if seen[point] == 0 {
			t.Errorf("nobody died at %s: %v", point, seen)
		}
	}
}
