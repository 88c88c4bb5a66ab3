package blockdev

import (
	"sync/atomic"
	"time"
)

// How the objects of an adopted disk are verified: so many slots, then a rest. A
// tenth of a CPU at most, and a gibibyte takes a second or two.
const (
	verifyStep = 128
	verifyRest = time.Millisecond
)

// verify is the progress of the goroutine that reads, after a recovery, each page
// that the worker before left, and sees whether it is what was stored: recovery
// itself looks at no content.
type verify struct {
	done, total, corrupt atomic.Int64 // pages

	part [8]byte // the goroutine's own; where a page's first bytes go
}

// Verified tells how many of the pages that the disk was adopted with have been
// verified, how many there were, and how many were found damaged. All are 0 for
// a disk that was not adopted.
func (d *Device) Verified() (done, total, corrupt int64) {
	k := d.disk.Load()
	if k == nil {
		return 0, 0, 0
	}
	return k.verify.done.Load(), k.verify.total.Load(), k.verify.corrupt.Load()
}

// runVerify verifies every page once, slowly.
func (d *disk) runVerify() {
	rest := time.NewTimer(verifyRest)
	defer rest.Stop()
	for next := uint64(0); next < d.table.slots(); {
		select {
		case <-d.stop:
			return
		case <-rest.C:
		}
		next = d.verifySome(next)
		rest.Reset(verifyRest)
	}
	d.verify.done.Store(d.verify.total.Load()) // some were discarded before their turn
}

// verifySome verifies a few pages from a slot on and says where it stopped.
func (d *disk) verifySome(slot uint64) (next uint64) {
	return d.walkSome(slot, verifyStep, func(slot uint64, w word) {
		if err := d.verifySlot(slot, w, d.verify.part[:]); err != nil {
			d.verify.corrupt.Add(1)
			d.bad(slot)
		}
		if d.verify.done.Load() < d.verify.total.Load() {
			d.verify.done.Add(1)
		}
	})
}

// walkSome visits so many pages that hold something, from a slot on, each under
// its slot's lock and with the word it has then, and says where it stopped: no
// further than scanStep slots on, of which none may hold anything. It keeps a check
// that wants the disk quiet, and all I/O with it, waiting no longer than that takes.
func (d *disk) walkSome(slot uint64, most int, visit func(slot uint64, w word)) (next uint64) {
	d.quiet.RLock()
	defer d.quiet.RUnlock()
	held := 0
	slot = d.table.nextPresent(slot)
	for first := slot; slot < d.table.slots(); slot++ {
		if slot%slotsPerTablePage == 0 && !d.table.present(slot) {
			return slot
		}
		if held == most || slot-first == scanStep {
			return slot
		}
		w := d.table.load(slot)
		if w == 0 {
			continue
		}
		held++
		if s := w.state(); w.sound(slot) && (s == stored || s == huge) {
			d.pool.Touch(poolPlace(w), w.size()) // a fault must not happen under the slot's lock
		}
		d.table.lock(slot)
		if w = d.table.load(slot); w != 0 {
			visit(slot, w)
		}
		d.table.unlock(slot)
	}
	return slot
}

// verifySlot says whether a slot's page is what was stored. Caller holds its
// lock. part is where a few bytes of the page can go. What lies on the backing
// device is not read: it is verified when it is.
func (d *disk) verifySlot(slot uint64, w word, part []byte) error {
	switch w.state() {
	case stored, huge:
		if w.sound(slot) {
			_, err := d.object(slot, w)
			return err
		}
	case empty, same, staged:
		return d.readLocked(0, slot, w, 0, part)
	case backed:
		if err := d.elsewhere(slot, w); !w.sound(slot) || err != errAway {
			return ErrCorrupt
		}
		return nil
	}
	return ErrCorrupt
}
