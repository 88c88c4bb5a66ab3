package blockdev

import (
	"errors"
	"testing"

	"github.com/zramfs/zramfs/stable"
)

// flip damages a slot's word.
func flip(d *Device, slot uint64) { d.disk.Load().table.words[slot] ^= 1 << 20 }

// A word that was damaged while its page was staged is overwritten: the
// compressor must not publish the old page over the new one.
func TestDamagedStagedWordIsOverwritten(t *testing.T) {
	for _, same := range []bool{false, true} {
		d := newHeld(t, stable.Snapshot)
		k := d.disk.Load()
		write(t, d.Device, stamped(t, 1), 0)
		<-d.at
		k.table.lock(0)
		flip(d.Device, 0)
		k.table.unlock(0)
		if _, err := d.ReadAt(make([]byte, PageSize), 0); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("read of a damaged word: %v, want ErrCorrupt", err)
		}
		page := stamped(t, 2)
		if same {
			page = make([]byte, PageSize)
		}
		write(t, d.Device, page, 0)
		d.letGo <- struct{}{}
		if !same {
			<-d.at
			d.letGo <- struct{}{}
		}
		drain(t, d.Device)
		wantPage(t, d.Device, 0, page)
	}
}

// A damaged word stays one page: overwritten or discarded, it is not counted
// twice.
func TestDamagedWordIsOnePage(t *testing.T) {
	set, err := NewSet(testConfig(t))
	if err != nil {
		t.Fatal(err)
	}
	defer set.Close()
	id, err := set.HotAdd()
	if err != nil {
		t.Fatal(err)
	}
	d := set.Device(id)
	if err := d.SetSize(8 * PageSize); err != nil {
		t.Fatal(err)
	}
	for slot := range int64(3) {
		write(t, d, stamped(t, uint64(slot)), slot*PageSize)
	}
	flip(d, 0)
	write(t, d, stamped(t, 9), 0)
	flip(d, 1)
	if err := d.Discard(PageSize, PageSize); err != nil {
		t.Fatal(err)
	}
	if n := column(t, d, "mm_stat", mmOrig); n != 2*PageSize {
		t.Errorf("orig_data_size %d, want two pages", n)
	}
	// Their objects have no owner now, and Check says so.
	if d.Check() == nil {
		t.Error("Check finds nothing wrong with two lost objects")
	}
}

// A word that was damaged into one that names another page's block, or a block
// that is free, its check right by chance: to replace it costs no other page.
func TestDamagedBackedWordFreesNothing(t *testing.T) {
	for _, discard := range []bool{false, true} {
		for _, away := range []uint64{0, 2} { // blocks from the one that is in use
			cfg := testConfig(t)
			cfg.Backing = backings{"dev": newMemBacking(8)}
			sets, err := NewSet(cfg)
			if err != nil {
				t.Fatal(err)
			}
			id, err := sets.HotAdd()
			if err != nil {
				t.Fatal(err)
			}
			d := sets.Device(id)
			set(t, d, "backing_dev=dev")
			if err := d.SetSize(8 * PageSize); err != nil {
				t.Fatal(err)
			}
			k := d.disk.Load()
			pages := [][]byte{incompressible(), stamped(t, 1)}
			for slot, page := range pages {
				write(t, d, page, int64(slot)*PageSize)
			}
			set(t, d, "writeback=page_index=0")
			k.table.lock(1)
			w := k.table.load(0)
			k.table.store(1, makeWord(backed, 0, PageSize, w.place()+away*PageSize/awayUnit))
			k.table.unlock(1)
			if _, err := d.ReadAt(make([]byte, PageSize), PageSize); !errors.Is(err, ErrCorrupt) {
				t.Errorf("the damaged page: %v, want ErrCorrupt", err)
			}
			if discard {
				if err := d.Discard(PageSize, PageSize); err != nil {
					t.Fatal(err)
				}
			} else {
				write(t, d, pages[1], PageSize)
			}
			if s := d.Backing(); s.Used != 1 {
				t.Errorf("%d blocks are in use, want that of the other page", s.Used)
			}
			for slot := range int64(7) { // they would take its block
				write(t, d, incompressible(), (1+slot)*PageSize)
			}
			set(t, d, "writeback=page_indexes=1-7")
			wantPage(t, d, 0, pages[0])
			// The object of the damaged word has no owner now, and Check says so.
			if err := d.Check(); !errors.Is(err, ErrCorrupt) || states(d, backed) != 8 {
				t.Errorf("Check: %v; %d pages on the device", err, states(d, backed))
			}
			if err := sets.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}
