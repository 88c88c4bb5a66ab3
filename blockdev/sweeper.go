package blockdev

import "runtime"

// sweeper is the goroutine that finishes long discards in steps, and lets in who
// came while the gate was shut. It never waits for memory.
type sweeper struct {
	requests
	wake chan struct{} // immutable; capacity 1
}

func (s *sweeper) push(r *Request) {
	s.requests.push(r)
	s.poke()
}

func (s *sweeper) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (d *disk) runSweeper() {
	for {
		select {
		case <-d.stop:
			return
		case <-d.sweeper.wake:
		}
		d.sweep()
	}
}

// sweep takes each long discard one step further, in turn, and lets others in
// between. A check does not wait for the end of one.
func (d *disk) sweep() {
	for {
		d.admit()
		r := d.sweeper.takeOne()
		if r == nil {
			return
		}
		if d.gate.closed.Load() {
			d.stepOut(r)
			continue
		}
		d.resume(r)
		runtime.Gosched()
	}
}

// admit lets in who came while the gate was shut, or stepped out of it, if it
// is open again.
func (d *disk) admit() {
	if d.gate.closed.Load() {
		return
	}
	for r := d.waiting.gate.takeAll(); r != nil; {
		next := r.next
		r.next = nil
		if n, parked, err := d.enter(r); !parked {
			r.Done(r, n, err)
		}
		r = next
	}
}

// stepOut takes a parked request out of the gate, which is being shut: it goes
// on from where it stands when the gate is open again.
func (d *disk) stepOut(r *Request) {
	stream := r.Stream
	if !d.waiting.gate.push(r) {
		d.answer(r, ErrNotReady)
		return
	}
	d.gate.leave(stream)
	d.sweeper.poke() // it may be open again
}

// stepAside takes everybody out of the gate, which is being shut, who waits for a
// page of the backing device, or for room: upkeep, which would do the latter, may
// wait for memory itself. It is called as long as there is somebody inside.
func (d *disk) stepAside() {
	for r := d.waiting.room.takeOne(); r != nil; r = d.waiting.room.takeOne() {
		d.limited(r, false)
		d.stepOut(r)
	}
	if d.back != nil {
		d.stepAway()
	}
}

// reopen opens the gate and lets in who came while it was shut.
func (d *disk) reopen() {
	d.gate.open()
	d.sweeper.poke()
}
