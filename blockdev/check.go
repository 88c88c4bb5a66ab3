package blockdev

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/zramfs/zramfs/stable"
)

// report is what a check found.
type report struct {
	stood    time.Duration // how long I/O waited for it
	sums                   // of the slot table: what it holds
	bad      int64         // pages that cannot be read
	first    uint64        // of them, if there are any
	firstErr error
	err      error // what is wrong, nil: nothing
}

// append writes the report, "name value" a line.
func (r *report) append(b []byte) []byte {
	b = fmt.Appendf(b, "pages %d\nsame %d\nstored %d\nhuge %d\nstaged %d\nbacked %d\ncorrupt %d\n",
		r.pages, r.same, r.objects-r.huge, r.huge, r.staged, r.backed, r.bad)
	if r.bad != 0 {
		b = fmt.Appendf(b, "first_corrupt %d\n", r.first)
	}
	b = fmt.Appendf(b, "io_waited_us %d\n", r.stood.Microseconds())
	if r.err != nil {
		b = fmt.Appendf(b, "error %s\n", strings.ReplaceAll(r.err.Error(), "\n", "; "))
	}
	return b
}

// check walks everything, on a quiet disk: every word is sound and readable,
// every object has one owner that names it back, every frame in use has one
// slot, and the gauges equal the table's sums. It goes on after what it finds,
// counts it, and keeps its report.
func (d *disk) check() error {
	r, since := &report{}, time.Now()
	pages, tables := d.checkPages(r), d.checkTables(r)
	r.stood = time.Since(since)
	return d.conclude(r, pages, tables)
}

// checkTables compares what is derived with the slot table; it reads no page.
func (d *disk) checkTables(r *report) error {
	r.sums = d.table.sum()
	return errors.Join(d.checkBitmap(), d.checkFrames(), d.checkPool(), d.checkBacked(), d.checkSums(r))
}

// conclude keeps the report of a check that found errs.
func (d *disk) conclude(r *report, errs ...error) error {
	r.err = errors.Join(errs...)
	d.lanes[0].corrupt.Add(r.bad)
	if r.bad != 0 {
		d.noteBad(r.first)
	}
	d.integrity.checks.Add(1)
	d.checked.Store(r)
	return r.err
}

// found counts a page that cannot be read.
func (r *report) found(slot uint64, err error) {
	if r.bad++; r.bad == 1 {
		r.first, r.firstErr = slot, err
	}
}

// damage is what is wrong with the pages.
func (r *report) damage() error {
	if r.bad == 0 {
		return nil
	}
	return fmt.Errorf("%d pages cannot be read, the first: %w", r.bad, r.firstErr)
}

// checkBitmap: no page of the slot table is missing in its bitmap.
func (d *disk) checkBitmap() error {
	hidden := 0
	err := d.table.absent(d.region, d.layout, func(uint64) { hidden++ })
	if err == nil && hidden != 0 {
		err = fmt.Errorf("%d pages of the slot table are missing in its bitmap: %w", hidden, ErrCorrupt)
	}
	return err
}

// checkPages reads every page of a quiet disk.
func (d *disk) checkPages(r *report) error {
	page := make([]byte, PageSize)
	for slot, w := range d.table.each {
		if err := d.inspectSlot(slot, w, page); err != nil {
			r.found(slot, err)
		}
	}
	return r.damage()
}

// checkFrames: each frame that is staged is named by its slot's word alone.
func (d *disk) checkFrames() error {
	if d.frames == nil {
		return nil
	}
	for fr := range stable.Frame(d.frames.Len()) {
		if s := d.frames.State(fr); s != stable.Staged && s != stable.Compressing {
			continue
		}
		slot := uint64(d.frames.Owner(fr))
		if w := d.table.load(slot); w.state() != staged || w.place() != uint64(fr) {
			return fmt.Errorf("frame %d belongs to slot %d, whose word is %#x: %w", fr, slot, uint64(w), ErrCorrupt)
		}
	}
	return nil
}

func (d *disk) checkPool() error {
	if err := d.pool.Check(d.objects); err != nil {
		return fmt.Errorf("pool: %w", err)
	}
	return nil
}

// checkSums: gauges and account are what they sum up.
func (d *disk) checkSums(r *report) error {
	have := sumLanes(d.lanes)
	have = sums{pages: have.pages, bytes: have.bytes, same: have.same, huge: have.huge, staged: have.staged,
		objects: have.objects, backed: have.backed}
	if have != r.sums {
		return fmt.Errorf("gauges %+v, the slot table's sums %+v: %w", have, r.sums, ErrCorrupt)
	}
	inUse := int64(0)
	if d.frames != nil {
		inUse = int64(d.frames.InUse())
	}
	if used := d.account.used.Load(); used != inUse+d.pool.Stats().Pages {
		return fmt.Errorf("account holds %d pages, pool %d and frames %d: %w",
			used, d.pool.Stats().Pages, inUse, ErrCorrupt)
	}
	return nil
}
