package blockdev

import (
	"sync/atomic"

	"github.com/zramfs/zramfs/stable"
)

// How many held pages a discard frees, and about how many slots it looks at,
// before it lets others through: on a reader's thread it then goes to the
// sweeper.
const (
	discardStep = 1024
	scanStep    = 64 << 10
)

// stepDiscard empties whole pages and zeroes ragged edges. It costs a bit per
// absent table page and a word per slot of the others.
func (d *disk) stepDiscard(r *Request) error {
	for r.done < r.Len {
		at := r.Off + r.done
		slot, off := uint64(at/PageSize), int(at%PageSize)
		n := min(int64(PageSize-off), r.Len-r.done)
		if n < PageSize {
			if err := d.zeroPart(r, slot, off, int(n)); err != nil {
				return err
			}
			r.moveOn(n)
			continue
		}
		last := uint64(at+(r.Len-r.done)) / PageSize
		next, whole := d.discardSome(r.Stream, slot, last)
		d.lanes[r.Stream].discards.Add(int64(next - slot))
		r.moveOn(int64(next-slot) * PageSize)
		if !whole {
			d.countParked(r)
			d.sweeper.push(r)
			return errPark
		}
	}
	return nil
}

// zeroPart zeroes a part of a page, if the page holds anything.
func (d *disk) zeroPart(r *Request, slot uint64, off, n int) error {
	if d.table.load(slot) == 0 {
		return nil
	}
	return d.writePart(r, slot, off, d.zero[:n])
}

// discardSome empties slots in [slot, last) and stops after a step; it says
// where, and whether that was the end.
func (d *disk) discardSome(stream int, slot, last uint64) (next uint64, whole bool) {
	held, seen := 0, uint64(0)
	for slot = d.table.nextPresent(slot); slot < last; slot = d.table.nextPresent(slot) {
		if seen >= scanStep {
			return slot, false
		}
		end := min((slot/slotsPerTablePage+1)*slotsPerTablePage, last)
		seen += end - slot
		for ; slot < end; slot++ {
			if atomic.LoadUint64(&d.table.words[slot]) == 0 {
				continue
			}
			if held == discardStep {
				return slot, false
			}
			d.emptySlot(stream, slot)
			held++
		}
	}
	return last, true
}

// emptySlot publishes the empty word, then wipes and frees what the slot held.
func (d *disk) emptySlot(stream int, slot uint64) {
	d.table.lock(slot)
	old := d.table.load(slot)
	if old == 0 {
		d.table.unlock(slot)
		return
	}
	old = d.trusted(slot, old)
	d.table.store(slot, 0)
	d.table.wipeElement(slot, old)
	d.lanes[stream].move(old, 0)
	if old.state() == staged {
		// A discard changes no byte of the frame, so no policy is asked.
		d.frames.Leave(stable.Frame(old.place()), false)
	}
	d.table.unlock(slot)
	d.wipe(stream, slot, old)
}
