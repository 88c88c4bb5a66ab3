package blockdev

import (
	"fmt"
	"math/bits"
	"sync/atomic"
	"unsafe"

	"github.com/zramfs/zramfs/internal/invariants"
)

// A disk changes its size by one store of a word in its header, which the next
// generation reads: the tables have had room for more slots from the start. So a
// death leaves the old size or the new one, and no page moves.

// resizeAttributes: what the kernel cannot do.
func resizeAttributes() []Attribute {
	return []Attribute{{
		Dir: DirZramfs, Name: "resize", Mode: 0o644,
		Help:  "new size of a disk that has one; loop devices learn it from zramfs resize and set (else: losetup --set-capacity); reading tells size, most bytes it can grow to, and bytes up to the last page in use",
		Show:  showResize,
		Store: storeResize,
	}}
}

func showResize(d *Device, b []byte) ([]byte, error) {
	k := d.hold()
	if k == nil {
		return append(b, "size 0\nmax_size 0\nused_to 0\n"...), nil
	}
	defer k.letGo()
	end := uint64(0)
	if top, any := k.table.highest(0); any {
		end = top + 1
	}
	return fmt.Appendf(b, "size %d\nmax_size %d\nused_to %d\n", k.table.slots()*PageSize, k.layout.capacity*PageSize, end*PageSize), nil
}

func storeResize(d *Device, value string) error {
	n, err := parseSize(trim(value))
	if err != nil {
		return fmt.Errorf("resize: %w", err)
	}
	return d.Resize(n)
}

// Resize makes the disk larger or smaller while it serves; bytes is rounded up
// to a page. ErrBusy if a page beyond the new end is in use, ErrRange if there
// is no room for so many slots, ErrUnsupported if the disk keeps its size, and
// ErrInvalid if it has none yet. With an error the size is as it was.
func (d *Device) Resize(bytes int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	k := d.disk.Load()
	switch {
	case d.gone:
		return fmt.Errorf("resize %s: %w", d.Name(), ErrNoDevice)
	case k == nil:
		return fmt.Errorf("resize: %s has no disksize yet; set it first: %w", d.Name(), ErrInvalid)
	case bytes <= 0:
		return fmt.Errorf("resize %s to %d bytes: need at least 1; to empty the device reset it: %w", d.Name(), bytes, ErrInvalid)
	case bytes > MaxSize:
		return fmt.Errorf("resize %s to %d bytes: a disk has at most 16 TiB: %w", d.Name(), bytes, ErrRange)
	}
	slots, was := uint64(roundUp(bytes, PageSize)/PageSize), k.table.slots()
	var err error
	switch {
	case slots == was:
	case d.set.cfg.Reach < 0:
		err = fmt.Errorf("it is cut into segments for swap, which keep their size: swapoff, and swapon --size, make another: %w", ErrUnsupported)
	case slots > k.layout.capacity:
		err = fmt.Errorf("its tables have room for %d bytes, which was settled when it got its first size: "+
			"for a larger disk make another: %w", k.layout.capacity*PageSize, ErrRange)
	case slots > was:
		err = k.grow(slots)
	default:
		err = k.shrink(slots)
	}
	if err != nil {
		return fmt.Errorf("resize %s from %d to %d bytes: %w", d.Name(), was*PageSize, slots*PageSize, err)
	}
	return nil
}

// grow adds empty slots. I/O goes on.
func (d *disk) grow(slots uint64) error {
	b := d.layout.bitmap(d.table.slots(), slots)
	if err := d.region.Populate(b.off, b.n); err != nil {
		return fmt.Errorf("populate the bitmap of the slot table: %w", err)
	}
	d.publishSlots(slots)
	return nil
}

// shrink takes empty slots away. Requests that come meanwhile are parked for as
// long as it takes to look at the tables once more.
func (d *disk) shrink(slots uint64) error {
	was := d.table.slots()
	if err := d.tailEmpty(slots); err != nil {
		return err // and nobody was parked for it
	}
	d.gate.shut()
	err := d.tailEmpty(slots)
	if err == nil {
		d.publishSlots(slots)
	}
	d.reopen()
	if err == nil {
		d.dropTables(slots, was)
	}
	return err
}

func (d *disk) tailEmpty(slots uint64) error {
	if top, any := d.table.highest(slots); any {
		return fmt.Errorf("page %d is in use, the highest that is: discard what lies beyond byte %d first: %w",
			top, slots*PageSize, ErrBusy)
	}
	return nil
}

// publishSlots is the moment at which the disk has another size.
func (d *disk) publishSlots(slots uint64) {
	invariants.CrashPoint("resize.publish")
	(*atomic.Uint64)(unsafe.Add(d.region.Base(), slotsAt)).Store(sealSlots(slots))
	invariants.CrashPoint("resize.published")
	d.table.size.Store(slots)
}

// dropTables gives back the pages of the tables that tell only of slots in
// [first, last), which the disk no longer has: their bits first, so that nobody
// looks at what is a hole. What cannot be given back stays, empty, and is used
// when the disk grows again.
func (d *disk) dropTables(first, last uint64) {
	const align = PageSize / 4 // slots of a page of access times, the smallest entries
	first = (first + align - 1) / align * align
	if first >= last {
		return
	}
	d.table.forget(first, last)
	for _, t := range d.layout.tables(first, last) {
		invariants.CrashPoint("resize.punch")
		_ = d.region.Punch(t.off, t.n)
	}
}

// forget clears the presence bits of the slots [first, last), which are empty
// and whose table pages nobody stores to any more.
func (t *table) forget(first, last uint64) {
	for page := first / slotsPerTablePage; page*slotsPerTablePage < last; page++ {
		p, bit := &t.presence[page/64], uint64(1)<<(page%64)
		if atomic.LoadUint64(p)&bit != 0 {
			invariants.CrashPoint("resize.forget")
			atomic.AndUint64(p, ^bit)
		}
	}
}

// highest finds the last slot at or after from that is not empty, any says
// whether there is one. It costs a bit per absent table page, from the end.
func (t *table) highest(from uint64) (slot uint64, any bool) {
	slots := t.slots()
	if from >= slots {
		return 0, false
	}
	for i := (slots - 1) / slotsPerTablePage / 64; ; i-- {
		for w := atomic.LoadUint64(&t.presence[i]); w != 0; {
			b := uint64(bits.Len64(w) - 1)
			w &^= 1 << b
			first := (i*64 + b) * slotsPerTablePage
			for slot := min(first+slotsPerTablePage, slots); slot > max(first, from); slot-- {
				if atomic.LoadUint64(&t.words[slot-1]) != 0 {
					return slot - 1, true
				}
			}
		}
		if i*64*slotsPerTablePage <= from {
			return 0, false
		}
	}
}
