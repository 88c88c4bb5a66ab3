package blockdev

import "fmt"

// Figures tell how much room a disk has left, and whether anybody waits for
// it or for the backing device. Each is right at some moment.
type Figures struct {
	Pages int64 // slots that hold something
	Bytes int64 // what they became; a huge or staged page counts whole, a same-filled one nothing
	Huge  int64 // slots whose page is stored as it is
	Used  int64 // pages of memory under the limit
	Limit int64 // pages; 0: none

	Waiting      int64 // writes that wait for room now
	Away         int64 // requests that wait for the backing device now
	FailedWrites int64 // answered with an error, ever
	Requests     int64 // pages read, written and discarded, ever

	Compressed int64 // pages that were compressed since this process began
	Stored     int64 // bytes they became; one that does not compress counts whole
}

// Figures takes a look at the disk, zero if there is none. It allocates
// nothing and waits for nobody who might wait for memory.
func (d *Device) Figures() (f Figures) {
	k := d.hold()
	if k == nil {
		return f
	}
	defer k.letGo()
	s := sumLanes(k.lanes)
	f.Pages, f.Bytes, f.Huge = s.pages, s.bytes, s.huge
	f.Used, f.Limit = k.account.used.Load(), k.account.limit.Load()
	f.Waiting, f.FailedWrites = k.waiting.room.count(), s.failedWrites
	if k.upkeep.stalled.Load() {
		f.Waiting++
	}
	if k.back != nil {
		f.Away = k.back.away.count()
	}
	f.Requests = s.reads + s.writes + s.discards
	for i := range k.lanes {
		c := k.codecs.Stream(i).Stats()
		f.Compressed += int64(c.Compressed + c.Incompressible)
		f.Stored += int64(c.BytesOut + c.Incompressible*PageSize)
	}
	return f
}

// Compact moves objects together while I/O runs, and says how many pages became
// free by it.
func (d *Device) Compact() (freed int64, err error) {
	k, err := d.disked("compact")
	if err != nil {
		return 0, err
	}
	defer k.letGo()
	return k.compact(k.ending)
}

// Populate commits the tables for n bytes of the disk from off, and that of the
// backing device's blocks, so that no write there faults a page of them: what a
// part of a disk needs before it becomes swap.
func (d *Device) Populate(off, n int64) error {
	k, err := d.disked("populate")
	if err != nil {
		return err
	}
	defer k.letGo()
	size := int64(k.table.slots()) * PageSize
	if off < 0 || n < 0 || off > size || n > size-off {
		return fmt.Errorf("populate [%d, +%d) of %d bytes: %w", off, n, size, ErrInvalid)
	}
	first, last := off/PageSize, (off+n+PageSize-1)/PageSize
	for _, t := range k.layout.tables(uint64(first), uint64(last)) {
		if err := k.region.Populate(t.off, t.n); err != nil {
			return fmt.Errorf("populate tables: %w", err)
		}
	}
	return k.populateBacking(k.ending)
}
