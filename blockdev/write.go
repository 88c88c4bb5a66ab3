package blockdev

import (
	"fmt"

	"github.com/zramfs/zramfs/compress"
	"github.com/zramfs/zramfs/pool"
	"github.com/zramfs/zramfs/stable"
)

// built is new content that no slot names yet.
type built struct {
	w       word
	element uint64 // of a same page that needs the element table
}

func poolPlace(w word) pool.Place { return pool.Place(w.place()) }

// writePage stores a whole page. Its bytes are private to the request.
func (d *disk) writePage(r *Request, slot uint64, page []byte) error {
	b, err := d.build(r.Stream, slot, page)
	if err != nil {
		return err
	}
	d.table.lock(slot)
	old, err := d.publish(r, slot, b)
	if err != nil {
		d.drop(r.Stream, slot, b) // while the request is ours, and so keeps checks out
	}
	d.unlockOrPark(r, slot, err)
	if err != nil {
		return err
	}
	d.lanes[r.Stream].writes.Add(1)
	d.release(r.Stream, slot, old)
	return nil
}

// writePart patches a part of a page. The slot's lock is held from the read to
// the commit, so that two writers of two halves lose nothing.
func (d *disk) writePart(r *Request, slot uint64, off int, data []byte) error {
	d.table.lock(slot)
	old, err := d.patch(r, slot, off, data)
	d.unlockOrPark(r, slot, err)
	if err != nil {
		return err
	}
	d.lanes[r.Stream].writes.Add(1)
	if r.Op == OpWrite {
		d.release(r.Stream, slot, old)
	} else { // a part was discarded
		d.wipe(r.Stream, slot, old)
	}
	return nil
}

// unlockOrPark lets go of a slot's lock. With errPark the request goes on the
// waiting list first, and whoever ends the compression resumes it: the lock orders
// the two. The caller does not touch the request again.
func (d *disk) unlockOrPark(r *Request, slot uint64, err error) {
	if err == errPark {
		d.countParked(r)
		d.waiting.frame.push(r)
	}
	d.table.unlock(slot)
}

// patch is writePart under the slot's lock; it gives the word to release.
func (d *disk) patch(r *Request, slot uint64, off int, data []byte) (word, error) {
	h := &d.hands[r.Stream]
	h.lock()
	defer h.unlock()
	w := d.table.load(slot)
	if err := d.mayReplace(slot, w); err != nil {
		return 0, err
	}
	if err := d.readLocked(r.Stream, slot, w, 0, h.page); err == errAway {
		return 0, err
	} else if err != nil {
		d.lanes[r.Stream].corrupt.Add(1)
		return 0, err
	}
	copy(h.page[off:], data)
	b, err := d.build(r.Stream, slot, h.page)
	if err != nil {
		return 0, err
	}
	return d.commit(r.Stream, slot, w, b), nil
}

// build makes the new content of a slot and publishes nothing: a word for a
// same-filled page, a staged frame if there is one free, else an object.
func (d *disk) build(stream int, slot uint64, page []byte) (built, error) {
	if e, ok := sameFilled(page); ok {
		return built{sameWord(slot, e), e}, nil
	}
	if fr, ok := d.takeFrame(stream, slot); ok {
		d.frames.Fill(fr, page)
		return built{w: makeWord(staged, 0, PageSize, uint64(fr))}, nil
	}
	v := stable.Borrow(page, d.stable)
	w, err := d.compress(stream, slot, v)
	v.Release()
	return built{w: w}, err
}

// compress stores a page in the pool, compressed if that pays, and gives the
// word that will name it. The slice that was compressed is the slice that is
// stored: a length is never used twice.
func (d *disk) compress(stream int, slot uint64, v stable.View) (word, error) {
	if err := d.faults.beforeCompress(); err != nil {
		return 0, fmt.Errorf("compress slot %d: %w", slot, err)
	}
	id := d.current()
	st := d.codecs.Stream(stream)
	st.Lock()
	defer st.Unlock()
	out, err := st.Compress(d.rows[id].codec, v)
	var w word
	switch {
	case err == compress.ErrIncompressible, err == nil && len(out) >= d.hugeLen:
		out, w = v.Bytes(), makeWord(huge, 0, PageSize, 0)
	case err != nil:
		return 0, fmt.Errorf("compress slot %d: %w", slot, err)
	default:
		w = makeWord(stored, id, len(out), 0)
	}
	if err := d.faults.beforePut(); err != nil {
		return 0, fmt.Errorf("store slot %d: %w", slot, err)
	}
	place, err := d.pool.Put(stream, uint32(slot), d.seed(slot, w), out)
	if err == pool.ErrFull && w.state() == stored {
		// The arena is in pieces too small for the zspage; one page may be left.
		out, w = v.Bytes(), makeWord(huge, 0, PageSize, 0)
		place, err = d.pool.Put(stream, uint32(slot), d.seed(slot, w), out)
	}
	switch err {
	case nil:
		count(&d.lanes[stream].objects, 1)
		return w | word(place)<<placeShift, nil
	case pool.ErrNoRoom:
		return 0, errRoom
	case pool.ErrLimit:
		return 0, d.overLimit()
	case pool.ErrFull:
		return 0, ErrNoSpace
	}
	return 0, fmt.Errorf("store slot %d: %w", slot, err)
}

// publish commits a whole page. Caller holds the slot's lock.
func (d *disk) publish(r *Request, slot uint64, b built) (old word, err error) {
	old = d.table.load(slot)
	if err := d.mayReplace(slot, old); err != nil {
		return 0, err
	}
	return d.commit(r.Stream, slot, old, b), nil
}

// mayReplace asks the stable policy whether the slot's page may change now.
// errPark: not before its compression has ended. Caller holds the slot's lock,
// and lets go of it with unlockOrPark.
func (d *disk) mayReplace(slot uint64, old word) error {
	if old.state() != staged || !old.sound(slot) {
		return nil
	}
	fr, err := d.frameOf(slot, old)
	if err != nil {
		return nil // an unsound word is overwritten like an empty one
	}
	switch d.frames.Ask(fr, stable.Policy(d.policy.Load())) {
	case stable.MustRefuse:
		return ErrRefused
	case stable.MustWait:
		return errPark
	}
	return nil
}

// commit stores the new word and settles what goes with it. Caller holds the
// slot's lock, and releases the word it gets after unlocking.
func (d *disk) commit(stream int, slot uint64, old word, b built) word {
	old = d.trusted(slot, old)
	if b.w.inTable() {
		d.table.putElement(slot, old, b.element)
	}
	d.table.store(slot, b.w)
	d.table.touch(slot, d.clock.Load())
	if !b.w.inTable() {
		d.table.wipeElement(slot, old)
	}
	d.lanes[stream].move(old, b.w)
	if old.state() == staged {
		d.frames.Leave(stable.Frame(old.place()), true)
	}
	if b.w.state() == staged {
		d.stage(stream, stable.Frame(b.w.place()))
	}
	return old
}

// trusted gives the word that is about to be replaced, or lostWord for one that
// was damaged: what that named is for Rebuild to find. Caller holds the slot's
// lock.
func (d *disk) trusted(slot uint64, w word) word {
	if !w.sound(slot) {
		return lostWord
	}
	if w.state() == staged {
		if _, err := d.frameOf(slot, w); err != nil {
			return lostWord
		}
	}
	if w.state() == backed {
		// Blocks do not know whose they are, as objects do: the element tells.
		if _, ok := backedCRC(slot, w, d.table.elementAt(slot)); !ok {
			return lostWord
		}
	}
	return w
}

// release frees the object that a replaced word of a slot named. Nobody can
// reach it any more, so no slot's lock is needed.
func (d *disk) release(stream int, slot uint64, old word) { d.free(stream, slot, old, d.pool.Free) }

// wipe is release, and leaves no byte of the object.
func (d *disk) wipe(stream int, slot uint64, old word) { d.free(stream, slot, old, d.pool.Wipe) }

// free gives up an object, unless the word was damaged, its check right by
// chance, and there is none or it is another slot's.
func (d *disk) free(stream int, slot uint64, old word, give func(pool.Place, int) error) {
	switch old.state() {
	case stored, huge:
	case backed:
		d.freeBacked(old)
		return
	default:
		return
	}
	place, size := poolPlace(old), old.size()
	o, ok := d.pool.Owner(place, size)
	if ok && uint64(o) != slot && d.names(uint64(o), old) || give(place, size) != nil {
		d.lanes[stream].corrupt.Add(1)
		return
	}
	count(&d.lanes[stream].objects, -1)
}

// names says whether a slot's word names the object that w does.
func (d *disk) names(slot uint64, w word) bool {
	if slot >= d.table.slots() {
		return false
	}
	v := d.table.load(slot)
	return v.sound(slot) && v.state() == w.state() && v.place() == w.place()
}

// drop frees content that was built and not published: no discard would ever
// find it.
func (d *disk) drop(stream int, slot uint64, b built) {
	if b.w.state() == staged {
		d.frames.Give(stable.Frame(b.w.place()))
		d.account.Give(1)
		return
	}
	d.wipe(stream, slot, b.w)
}
