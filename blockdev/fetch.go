package blockdev

import (
	"errors"
	"fmt"
	"slices"

	"github.com/zramfs/zramfs/internal/xts"
)

// fetchers is how many reads of the backing device are under way at most.
const fetchers = 8

// away are the requests whose next page is on the backing device, oldest first.
// They stay in here until the page has come, so that whoever shuts the gate can
// take them out, whatever the device does.
type away struct {
	requests
	busy [fetchers]uint64 // guarded by requests.mu; slot+1 that each fetcher is at
	wake chan struct{}    // immutable
}

// next gives a fetcher a slot that somebody waits for and nobody fetches.
func (a *away) next(me int) (slot uint64, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.busy[me] = 0
	for r := a.first; r != nil; r = r.next {
		slot := uint64((r.Off + r.done) / PageSize)
		if !slices.Contains(a.busy[:], slot+1) {
			a.busy[me] = slot + 1
			return slot, true
		}
	}
	for r := a.first; r != nil; r = r.next {
		next := uint64((r.Off + r.done) / PageSize)
		for slot := next + 1; slot <= next+fetchers && r.wants(slot); slot++ {
			bit := r.pageBit(slot)
			if r.asked&bit == 0 && !slices.Contains(a.busy[:], slot+1) {
				r.asked |= bit
				a.busy[me] = slot + 1
				return slot, true
			}
		}
	}
	return 0, false
}

// fill gives a page to the reads that have not come to it yet; false: there are
// none.
func (a *away) fill(slot uint64, page []byte) (any bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for r := a.first; r != nil; r = r.next {
		if slot > uint64((r.Off+r.done)/PageSize) && r.wants(slot) {
			copy(r.Data[int64(slot)*PageSize-r.Off:], page)
			r.ahead |= r.pageBit(slot)
			any = true
		}
	}
	return any
}

// pageBit is a slot's bit in ahead and asked, 0 if it is too far from the first.
func (r *Request) pageBit(slot uint64) uint64 { return 1 << (slot - uint64(r.Off/PageSize)) }

// wants says whether a read covers the whole page of a slot, which comes after
// its first and has a bit.
func (r *Request) wants(slot uint64) bool {
	return r.Op == OpRead && int64(slot+1)*PageSize <= r.Off+r.Len && slot-uint64(r.Off/PageSize) < 64
}

// cameAhead says whether a slot's page is in the buffer already.
func (r *Request) cameAhead(slot uint64) bool { return r.ahead&r.pageBit(slot) != 0 }

// elsewhere is what reading a backed page gives: errAway, or an error if it can
// not be there. Caller holds the slot's lock.
func (d *disk) elsewhere(slot uint64, w word) error {
	if d.back == nil || !d.back.blocks.fits(w) {
		return fmt.Errorf("slot %d: its page is on a backing device, and there is none, or no such place: %w", slot, ErrCorrupt)
	}
	if _, ok := backedCRC(slot, w, d.table.elementAt(slot)); !ok {
		return fmt.Errorf("slot %d: its page is on the backing device, and its CRC is gone: %w", slot, ErrCorrupt)
	}
	return errAway
}

// parkAway parks a request whose next page is on the backing device. The caller
// does not touch it again, but with another error than errPark. The device may
// take for ever, so what must not wait is refused.
func (d *disk) parkAway(r *Request) error {
	if r.Last && r.Op != OpRead {
		return ErrNoSpace
	}
	d.countParked(r)
	b := d.back
	pages := min((r.Len-r.done+PageSize-1)/PageSize, fetchers) // before it is another's
	b.away.push(r)
	for range pages {
		select {
		case b.away.wake <- struct{}{}:
		default: // as many as there are fetchers have been called
		}
	}
	return errPark
}

// stepAway takes all requests that wait for the device out of the gate, which is
// being shut. It is called as long as there is somebody inside.
func (d *disk) stepAway() {
	for r := d.back.away.takeOne(); r != nil; r = d.back.away.takeOne() {
		d.stepOut(r)
	}
}

// fetcher is a goroutine that reads from the backing device, and its scratch.
type fetcher struct {
	index int
	key   *xts.Cipher
	raw   []byte // blocks as they come
	page  []byte // the page
	patch []byte // the page with a part of it written over
	bytes []byte // in raw: the stored bytes
}

func (f *fetcher) init(i int, key *xts.Cipher) {
	f.index, f.raw, f.page, f.patch = i, alignedBuffer(2*PageSize), alignedBuffer(PageSize), alignedBuffer(PageSize)
	if key != nil {
		f.key = key.Clone()
	}
}

func (d *disk) runFetcher(f *fetcher) {
	for {
		select {
		case <-d.stop:
			return
		case <-d.back.away.wake:
		}
		for {
			slot, ok := d.back.away.next(f.index)
			if !ok {
				break
			}
			if !d.fetch(f, slot) {
				return
			}
		}
	}
}

// fetch reads a slot's page from the backing device and carries on everybody who
// waits for it. False: the disk is gone.
func (d *disk) fetch(f *fetcher, slot uint64) bool {
	w, err := d.fetchPage(f, slot)
	if err == errClosed {
		return false
	}
	if !d.back.inside.enter(0) {
		return false
	}
	defer d.back.inside.leave(0)
	switch { // what a second try has not cured
	case errors.Is(err, ErrBacking):
		d.back.kept.readErrors.Add(1)
	case w != 0 && errors.Is(err, ErrCorrupt):
		d.back.kept.damaged.Add(1)
	}
	promote := w != 0 && err == nil && d.fillAhead(f, slot, w)
	for r := d.back.away.takeSlot(slot); r != nil; {
		next := r.next
		r.next = nil
		promote = d.deliver(f, r, slot, w, err) || promote
		r = next
	}
	if w != 0 {
		d.quiet.RLock()
		if promote {
			d.promote(f, slot, w)
		}
		d.back.blocks.letGo(w)
		d.quiet.RUnlock()
	}
	return true
}

// fetchPage gives a slot's page, and its word if it is a backed one; who calls
// lets go of its blocks then. It waits for the device.
func (d *disk) fetchPage(f *fetcher, slot uint64) (word, error) {
	w, element, err := d.holdBacked(slot)
	if w == 0 || err != nil {
		return 0, err
	}
	if err = d.readBacked(f, slot, w, element); err != nil && err != errClosed {
		err = d.readBacked(f, slot, w, element) // it may have passed
	}
	return w, err
}

// holdBacked keeps the bytes of a slot's page on the device where they are, until
// letGo; 0: it is not there.
func (d *disk) holdBacked(slot uint64) (w word, element uint64, err error) {
	b := d.back
	if !b.inside.enter(0) {
		return 0, 0, errClosed
	}
	defer b.inside.leave(0)
	d.quiet.RLock()
	defer d.quiet.RUnlock()
	d.table.lock(slot)
	defer d.table.unlock(slot)
	w = d.table.load(slot)
	if w.state() != backed || !w.sound(slot) || !b.blocks.fits(w) {
		return 0, 0, nil
	}
	b.blocks.hold(w)
	return w, d.table.elementAt(slot), nil
}

// readBacked reads and verifies the page that a backed word names.
func (d *disk) readBacked(f *fetcher, slot uint64, w word, element uint64) error {
	b := d.back
	first, end := w.span()
	raw := f.raw[:(end-first)*PageSize]
	_, err := b.dev.ReadAt(raw, int64(first)*PageSize)
	if !b.inside.enter(0) {
		return errClosed
	}
	defer b.inside.leave(0)
	if err != nil {
		return fmt.Errorf("slot %d: read from the backing device: %w: %w", slot, ErrBacking, err)
	}
	b.kept.reads.Add(int64(end - first))
	unseal(f.key, raw, first)
	f.bytes = raw[w.place()*awayUnit%PageSize:][:w.size()]
	crc, ok := backedCRC(slot, w, element)
	if !ok || crc != d.crcOf(slot, w, f.bytes) {
		return fmt.Errorf("slot %d: what the backing device gave is not what was written: %w", slot, ErrCorrupt)
	}
	if w.size() == PageSize {
		copy(f.page, f.bytes)
		return nil
	}
	return d.decompress(f.index%len(d.lanes), slot, w, 0, f.page, f.bytes)
}
