package blockdev

import (
	"errors"
	"time"

	"github.com/zramfs/zramfs/stable"
)

// deliver carries on a request that waited for a slot's page: w is the word that
// named it, 0 if it was not on the device. promote says that the page is read
// often.
func (d *disk) deliver(f *fetcher, r *Request, slot uint64, w word, err error) (promote bool) {
	off := int((r.Off + r.done) % PageSize)
	n := int(min(int64(PageSize-off), r.Len-r.done))
	switch {
	case w == 0:
		d.resume(r)
	case err != nil:
		d.table.lock(slot)
		there := d.table.load(slot).sameBytes(w)
		d.table.unlock(slot)
		if !there {
			d.resume(r)
			return false
		}
		if errors.Is(err, ErrCorrupt) {
			d.lanes[r.Stream].corrupt.Add(1)
		}
		d.answer(r, err)
	case r.Op == OpRead:
		d.table.lock(slot)
		now := d.table.load(slot)
		if now.sameBytes(w) {
			copy(r.Data[r.done:][:n], f.page[off:])
			r.moveOn(int64(n))
			promote = d.readBack(slot, now)
		}
		d.table.unlock(slot)
		d.resume(r)
	default:
		d.patchBacked(f, r, slot, w, off, n)
	}
	return promote
}

// fillAhead gives a page that came to the reads that will want it next; true: it
// is read often.
func (d *disk) fillAhead(f *fetcher, slot uint64, w word) (promote bool) {
	d.table.lock(slot)
	defer d.table.unlock(slot)
	now := d.table.load(slot)
	return now.sameBytes(w) && d.back.away.fill(slot, f.page) && d.readBack(slot, now)
}

// readBack notes that a backed page was read, and says whether that happens
// often. Caller holds the slot's lock.
func (d *disk) readBack(slot uint64, w word) (often bool) {
	now, within := d.clock.Load(), d.back.settings.Load().promote
	if within == 0 {
		return false
	}
	often = w.has(flagReadBack) && now-d.table.atime(slot) <= within
	if !w.has(flagReadBack) {
		d.table.store(slot, w|flagReadBack)
	}
	d.table.touch(slot, now)
	return often
}

// patchBacked writes a part of a page of which the rest came from the device.
func (d *disk) patchBacked(f *fetcher, r *Request, slot uint64, w word, off, n int) {
	page := f.patch // others who wait for the page want it as it was
	copy(page, f.page)
	if r.Op == OpWrite {
		copy(page[off:], r.Data[r.done:][:n])
	} else {
		clear(page[off : off+n])
	}
	b, err := d.build(r.Stream, slot, page)
	if err != nil {
		d.waitOrFail(r, err)
		return
	}
	d.table.lock(slot)
	old := d.table.load(slot)
	there := old.sameBytes(w)
	if there {
		old = d.commit(r.Stream, slot, old, b)
	}
	d.table.unlock(slot)
	if there {
		d.lanes[r.Stream].writes.Add(1)
		d.release(r.Stream, slot, old)
		r.moveOn(int64(n))
	} else {
		d.drop(r.Stream, slot, b)
	}
	d.resume(r)
}

// waitOrFail parks a request that found no room, unless it has waited long enough
// before it came here, or answers it.
func (d *disk) waitOrFail(r *Request, err error) {
	if err != errRoom && err != errLimit {
		d.answer(r, err)
		return
	}
	now := time.Now()
	if r.until.IsZero() {
		r.until = now.Add(d.patience(err))
	} else if now.After(r.until) {
		d.answer(r, d.refuse(err))
		return
	}
	d.limited(r, err == errLimit)
	d.waiting.room.push(r)
	d.upkeep.poke()
}

// promote stores a page that came from the device in RAM again, if there is room.
// Caller read-holds quiet.
func (d *disk) promote(f *fetcher, slot uint64, w word) {
	if limit := d.account.limit.Load(); limit != 0 && d.account.used.Load() > limit-limit/8 {
		return
	}
	stream := f.index % len(d.lanes)
	var next word
	if w.size() == PageSize {
		v := stable.Borrow(f.page, d.stable)
		var err error
		next, err = d.compress(stream, slot, v)
		v.Release()
		if err != nil {
			return
		}
	} else {
		next = w.inner()
		place, err := d.pool.Put(stream, uint32(slot), d.seed(slot, next), f.bytes)
		if err != nil {
			return
		}
		next |= word(place) << placeShift
		count(&d.lanes[stream].objects, 1)
	}
	d.table.lock(slot)
	old := d.table.load(slot)
	there := old.sameBytes(w)
	if there {
		old = d.commit(stream, slot, old, built{w: next})
	}
	d.table.unlock(slot)
	if !there {
		d.wipe(stream, slot, next)
		return
	}
	d.release(stream, slot, old)
	d.back.kept.promoted.Add(1)
}
