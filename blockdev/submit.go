package blockdev

import (
	"fmt"
	"time"
)

// submit starts a request: it is answered here, or parked and answered by
// Done. What lies beyond the end of the disk is as on any block device: a read
// gets what there is, a write that begins there gets ErrNoSpace.
func (d *disk) submit(r *Request) (n int, parked bool, err error) {
	if uint(r.Stream) >= uint(len(d.lanes)) {
		return 0, false, fmt.Errorf("stream %d of %d: %w", r.Stream, len(d.lanes), ErrInvalid)
	}
	r.done, r.parked, r.limited, r.since, r.until = 0, false, false, time.Time{}, time.Time{}
	r.ahead, r.asked = 0, 0
	return d.enter(r)
}

// enter lets a request, new or with a part of it done, through the gate.
func (d *disk) enter(r *Request) (n int, parked bool, err error) {
	if !d.gate.enter(r.Stream) {
		if !d.waiting.gate.push(r) {
			return 0, false, ErrNotReady
		}
		d.sweeper.poke()
		return 0, true, nil
	}
	if err := d.bound(r); err != nil {
		return d.finish(r, err)
	}
	return d.advance(r)
}

// bound cuts a request at the end of the disk.
func (d *disk) bound(r *Request) error {
	size := int64(d.table.slots()) * PageSize
	switch r.Op {
	case OpRead, OpWrite:
		r.Len = int64(len(r.Data))
	case OpDiscard, OpZero:
		if r.Len < 0 {
			return fmt.Errorf("discard of %d bytes: %w", r.Len, ErrInvalid)
		}
	case OpFlush:
		r.Off, r.Len = 0, 0
	default:
		return fmt.Errorf("operation %d: %w", r.Op, ErrInvalid)
	}
	if r.Off < 0 {
		return fmt.Errorf("offset %d: %w", r.Off, ErrInvalid)
	}
	if r.Off >= size && r.Len > 0 {
		if r.Op == OpWrite {
			return ErrNoSpace
		}
		r.Len = 0
	}
	r.Len = min(r.Len, size-min(r.Off, size))
	return nil
}

// advance carries a request on from where it stands. If it parks, the request
// is somebody else's from that moment and is not touched again here.
func (d *disk) advance(r *Request) (n int, parked bool, err error) {
	switch err = d.step(r); err {
	case errPark:
		return 0, true, nil // the list took it under the slot's lock
	case errRoom, errLimit:
		wait := d.patience(err)
		if err == errLimit && (wait == 0 || r.Last) || r.Last && d.upkeep.short.Load() {
			return d.finish(r, d.refuse(err))
		}
		d.countParked(r)
		d.limited(r, err == errLimit)
		r.until = time.Now().Add(wait)
		d.waiting.room.push(r)
		d.upkeep.poke()
		return 0, true, nil
	}
	return d.finish(r, err)
}

// finish takes a request out of the gate and gives its answer. Pages that are
// committed already stay; the first error is the answer.
func (d *disk) finish(r *Request, err error) (int, bool, error) {
	if err != nil {
		d.countFailure(r)
	}
	d.endWait(r)
	d.gate.leave(r.Stream)
	return int(r.done), false, err
}

func (d *disk) countFailure(r *Request) {
	if r.Op == OpRead {
		d.lanes[r.Stream].failedReads.Add(1)
	} else {
		d.lanes[r.Stream].failedWrites.Add(1)
	}
}

// countParked counts a request that is about to be parked, once.
func (d *disk) countParked(r *Request) {
	if !r.parked {
		r.parked = true
		d.lanes[r.Stream].parked.Add(1)
	}
}

// answer finishes a parked request.
func (d *disk) answer(r *Request, err error) {
	n, _, err := d.finish(r, err)
	r.Done(r, n, err)
}

// resume carries a parked request on, on this thread.
func (d *disk) resume(r *Request) {
	if n, parked, err := d.advance(r); !parked {
		r.Done(r, n, err)
	}
}

// moveOn notes that so many bytes more are done. For room the request has not
// waited since, whatever else it waits for next.
func (r *Request) moveOn(n int64) {
	r.done += n
	r.until = time.Time{}
}

// step does what is left of a request, page by page. r.done moves on with
// every page that is committed, so a request that parks goes on where it was.
func (d *disk) step(r *Request) error {
	switch r.Op {
	case OpFlush:
		return nil
	case OpDiscard, OpZero:
		err := d.stepDiscard(r)
		if err == errAway {
			return d.parkAway(r)
		}
		return err
	}
	for r.done < r.Len {
		at := r.Off + r.done
		slot, off := uint64(at/PageSize), int(at%PageSize)
		n := int(min(int64(PageSize-off), r.Len-r.done))
		data := r.Data[r.done : r.done+int64(n)]
		var err error
		switch {
		case r.Op == OpRead && r.cameAhead(slot):
			d.lanes[r.Stream].reads.Add(1)
		case r.Op == OpRead:
			err = d.readPage(r.Stream, slot, off, data)
		case n == PageSize:
			err = d.writePage(r, slot, data)
		default:
			err = d.writePart(r, slot, off, data)
		}
		if err == errAway {
			return d.parkAway(r)
		}
		if err != nil {
			return err
		}
		r.moveOn(int64(n))
	}
	return nil
}
