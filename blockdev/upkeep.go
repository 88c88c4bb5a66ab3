package blockdev

import (
	"fmt"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// upkeep is the goroutine that commits and returns memory, off the I/O path,
// and carries on the requests that wait for room.
type upkeep struct {
	wake chan struct{} // immutable; capacity 1
}

func (u *upkeep) poke() {
	select {
	case u.wake <- struct{}{}:
	default:
	}
}

// fillReserve commits the populated reserve before the first request.
func (d *disk) fillReserve() error {
	d.clock.Store(bootSeconds())
	for {
		more, err := d.pool.Maintain()
		if err != nil {
			return fmt.Errorf("fill the populated reserve: %w", err)
		}
		if !more {
			return nil
		}
	}
}

func (d *disk) runUpkeep() {
	second := time.NewTicker(time.Second)
	defer second.Stop()
	for {
		select {
		case <-d.stop:
			return
		case <-second.C:
			d.clock.Store(bootSeconds())
		case <-d.pool.Wake():
		case <-d.upkeep.wake:
		}
		d.keepUp()
		d.admit()
	}
}

// admit lets in who came while the gate was shut, if it is open again.
func (d *disk) admit() {
	if d.gate.closed.Load() {
		return
	}
	for r := d.waiting.gate.takeAll(); r != nil; {
		next := r.next
		r.next = nil
		if n, parked, err := d.submit(r); !parked {
			r.Done(r, n, err)
		}
		r = next
	}
}

// keepUp maintains the pool until there is nothing left to do, and carries on
// whoever waits for room. When a round made no room, because all there is has
// been made, and nobody who waits got any further, no more will come by itself:
// ErrNoSpace. A round that made some may have lost it to others.
func (d *disk) keepUp() {
	d.quiet.RLock()
	defer d.quiet.RUnlock()
	for commits := int64(-1); ; {
		more, err := d.pool.Maintain()
		if more && err == nil {
			continue
		}
		waited, progress := d.retryRoom(false)
		if !waited {
			return
		}
		if progress && err == nil {
			continue
		}
		before := commits
		if commits = d.pool.Stats().Commits; commits == before || err != nil {
			d.retryRoom(true)
			return
		}
	}
}

// retryRoom carries on the requests that wait for room: waited says that there
// were any, progress that one of them got further. final answers the rest.
func (d *disk) retryRoom(final bool) (waited, progress bool) {
	for r := d.waiting.room.takeAll(); r != nil; {
		next := r.next
		r.next = nil
		waited = true
		before := r.done
		switch err := d.step(r); {
		case err == errPark:
			progress = true
		case err == errRoom && final:
			d.answer(r, ErrNoSpace)
		case err == errRoom:
			progress = progress || r.done > before
			d.waiting.room.push(r)
		default:
			progress = true
			d.answer(r, err)
		}
		r = next
	}
	return waited, progress
}

// bootSeconds is the device's clock: seconds since boot, sleep included, as
// the kernel's block_state counts them.
func bootSeconds() uint32 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return uint32(time.Now().Unix())
	}
	return uint32(ts.Sec)
}

// sweeper is the goroutine that finishes long discards in steps.
type sweeper struct {
	requests
	wake chan struct{} // immutable; capacity 1
}

func (s *sweeper) push(r *Request) {
	s.requests.push(r)
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

// sweep takes each long discard one step further, in turn.
func (d *disk) sweep() {
	for r := d.sweeper.takeOne(); r != nil; r = d.sweeper.takeOne() {
		d.resume(r)
		runtime.Gosched()
	}
}
