package blockdev

import (
	"fmt"
	"time"

	"github.com/zramfs/zramfs/stable"
)

const (
	// gather is how long a compressor lets pages come before it begins with them,
	// unless there are many: waking it costs as much as the compression of a page.
	gather = time.Millisecond
	// helpFor times its share of frames is what a stream compresses itself once its
	// compressor has fallen behind. A staged page costs a third more than another, so
	// less than 5 % is lost on all where staging them is no use.
	helpFor = 32
)

// takeFrame gives a fresh frame for a slot, if write-behind is on, the stream's
// compressor keeps up, one is free and the memory limit has room for it. Whoever
// gets none compresses the page himself: where all CPUs are busy that is cheaper.
func (d *disk) takeFrame(stream int, slot uint64) (stable.Frame, bool) {
	if d.frames == nil {
		return 0, false
	}
	if help := &d.hands[stream].help; help.Load() > 0 {
		help.Add(-1)
		return 0, false
	}
	// Staging leaves the room that the frames will need: staged pages that fill
	// the limit could never be compressed.
	if !d.account.take(1, int64(d.frames.Len())) {
		return 0, false
	}
	fr, ok := d.frames.Take(uint32(slot))
	if !ok {
		d.account.Give(1)
		d.helpOut(stream)
	}
	return fr, ok
}

// stage hands a frame that a slot's word names to the stream's compressor. Caller
// holds the slot's lock.
func (d *disk) stage(stream int, fr stable.Frame) {
	if d.frames.Stage(fr, stream) {
		d.helpOut(stream)
	}
}

// helpOut has a stream compress its next pages itself.
func (d *disk) helpOut(stream int) {
	d.hands[stream].help.Store(int64(helpFor * d.frames.Share()))
}

// frameOf gives the frame that a staged word names. Caller holds the slot's
// lock.
func (d *disk) frameOf(slot uint64, w word) (stable.Frame, error) {
	fr := stable.Frame(w.place())
	if w.place() >= maxFrames || !d.frames.Holds(fr, uint32(slot)) {
		return 0, fmt.Errorf("slot %d: word names frame %d, which is not its: %w", slot, w.place(), ErrCorrupt)
	}
	return fr, nil
}

// runCompressor compresses what is staged for one stream, until stop. What
// cannot be stored now stays staged until upkeep wakes it again.
func (d *disk) runCompressor(stream int) {
	more := time.NewTimer(gather)
	defer more.Stop()
	for {
		select {
		case <-d.stop:
			return
		case <-d.frames.Wake(stream):
		}
		more.Reset(gather)
		select {
		case <-d.stop:
			return
		case <-more.C:
		case <-d.frames.Much(stream):
		}
		for more := true; more; {
			var err error
			if more, err = d.compressNext(stream); err != nil {
				d.stall()
				break
			}
		}
	}
}

// compressNext compresses the oldest frame of a stream's queue: more says that
// there was one. With an error the frame is staged as before.
func (d *disk) compressNext(stream int) (more bool, err error) {
	d.quiet.RLock()
	defer d.quiet.RUnlock()
	fr, ok := d.frames.Next(stream)
	if !ok {
		return false, nil
	}
	slot := uint64(d.frames.Owner(fr))
	d.table.lock(slot)
	v, ok := d.frames.Begin(fr)
	d.table.unlock(slot)
	if !ok {
		d.account.Give(1)
		return true, nil
	}
	w, err := lostWord, error(nil)
	if d.frames.Sound(fr) {
		w, err = d.compress(stream, slot, v)
	} else {
		d.lanes[stream].corrupt.Add(1) // what was staged is gone; nobody is told that it is anything else
	}
	v.Release()

	d.table.lock(slot)
	free := true
	if err != nil {
		free = !d.frames.Again(fr, stream)
	} else if !d.replaceStaged(stream, slot, fr, w) {
		defer d.wipe(stream, slot, w)
	}
	d.table.unlock(slot)
	if free {
		d.account.Give(1)
	}
	d.wakeWaiters(slot)
	return true, err
}

// replaceStaged publishes what a frame was compressed to and frees the frame.
// False: the slot has moved on meanwhile. The frame knows, unless the word that
// named it was damaged: a damaged word, or what overwrote it, stays.
// Caller holds the slot's lock.
func (d *disk) replaceStaged(stream int, slot uint64, fr stable.Frame, w word) bool {
	current, old := d.frames.Current(fr), d.table.load(slot)
	was := makeWord(staged, 0, PageSize, uint64(fr))
	named := current && old.sound(slot) && old&plainMask&^(flagIdle|flagPP) == was
	switch {
	case named:
		d.table.store(slot, w|old&(flagIdle|flagPP))
		d.lanes[stream].move(was, w)
	case current:
		d.lanes[stream].move(was, lostWord)
	}
	d.frames.End(fr)
	return named
}

// wakeWaiters carries on the writes that waited for a slot's compression.
func (d *disk) wakeWaiters(slot uint64) {
	for r := d.waiting.frame.takeSlot(slot); r != nil; {
		next := r.next
		r.next = nil
		d.resume(r)
		r = next
	}
}
