package blockdev

import "fmt"

// readPage reads len(dst) bytes from byte off of a slot's page. The slot's
// lock is held from the first byte to the last: it, and nothing else, keeps
// the object alive.
func (d *disk) readPage(stream int, slot uint64, off int, dst []byte) error {
	lane := &d.lanes[stream]
	lane.reads.Add(1)
	if d.table.load(slot) == 0 {
		clear(dst)
		return nil
	}
	d.table.warm(slot)
	d.table.lock(slot)
	w := d.table.load(slot)
	err := d.readLocked(stream, slot, w, off, dst)
	if err == nil {
		d.accessed(slot, w)
	} else if err != errAway {
		lane.corrupt.Add(1)
		d.noteBad(slot)
	}
	d.table.unlock(slot)
	return err
}

// accessed clears what marks a slot, whose word is w, as untouched. Caller
// holds its lock.
func (d *disk) accessed(slot uint64, w word) {
	if w == 0 {
		return
	}
	if w.has(flagIdle | flagPP) {
		d.table.store(slot, w&^(flagIdle|flagPP))
	}
	d.table.touch(slot, d.clock.Load())
}

// readLocked reads from the page that w names. Caller holds the slot's lock.
func (d *disk) readLocked(stream int, slot uint64, w word, off int, dst []byte) error {
	if !w.sound(slot) {
		return fmt.Errorf("slot %d: word %#x fails its check: %w", slot, uint64(w), ErrCorrupt)
	}
	switch w.state() {
	case empty:
		clear(dst)
	case same:
		e, ok := d.table.element(slot, w)
		if !ok {
			return fmt.Errorf("slot %d: the element table has %#x, which is another's: %w", slot, e, ErrCorrupt)
		}
		fill(dst, e, off)
	case staged:
		fr, err := d.frameOf(slot, w)
		if err != nil {
			return err
		}
		if !d.frames.Sound(fr) {
			return fmt.Errorf("slot %d: frame %d fails its checksum: %w", slot, fr, ErrCorrupt)
		}
		copy(dst, d.frames.Bytes(fr)[off:])
	case huge:
		raw, err := d.object(slot, w)
		if err != nil {
			return err
		}
		copy(dst, raw[off:])
	case stored:
		src, err := d.object(slot, w)
		if err != nil {
			return err
		}
		return d.decompress(stream, slot, w, off, dst, src)
	case backed:
		return d.elsewhere(slot, w)
	case lost:
		return fmt.Errorf("slot %d: its object was damaged: %w", slot, ErrCorrupt)
	}
	return nil
}

// object gives the stored bytes that a word names, their header and CRC
// verified.
func (d *disk) object(slot uint64, w word) ([]byte, error) {
	b, err := d.pool.Get(poolPlace(w), uint32(slot), d.seed(slot, w), w.size())
	if err != nil {
		return nil, fmt.Errorf("slot %d: %w: %w", slot, ErrCorrupt, err)
	}
	return b, nil
}

// decompress writes a whole page straight to where it goes, and a part of one
// by way of the stream's scratch page.
func (d *disk) decompress(stream int, slot uint64, w word, off int, dst, src []byte) error {
	page := dst
	if len(dst) != PageSize {
		h := &d.hands[stream]
		h.lock()
		defer h.unlock()
		page = h.part
	}
	row := d.rowOf(w)
	if row == nil {
		return fmt.Errorf("slot %d: compressed with parameters %d, which there are not: %w", slot, w.params(), ErrCorrupt)
	}
	st := d.codecs.Stream(stream)
	st.Lock()
	err := st.Decompress(row.codec, page, src)
	st.Unlock()
	if err != nil {
		return fmt.Errorf("slot %d: %w: %w", slot, ErrCorrupt, err)
	}
	if len(dst) != PageSize {
		copy(dst, page[off:])
	}
	return nil
}
