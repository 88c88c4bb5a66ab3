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
