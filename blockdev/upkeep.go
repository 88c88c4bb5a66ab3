package blockdev

import (
	"fmt"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zramfs/zramfs/pool"
)

// How long upkeep lets memory that could not be had, or a page that could not
// be stored, be: the first time, and at most.
const (
	firstPause = time.Millisecond
	lastPause  = 20 * time.Millisecond
)

// upkeep is the goroutine that commits and returns memory, off the I/O path,
// and carries on the requests and the compressors that wait for room. It may wait
// for memory that only other requests free, so nothing that has any waits for it.
type upkeep struct {
	wake    chan struct{} // immutable; capacity 1
	stalled atomic.Bool   // a compressor could not store a page, and waits
	short   atomic.Bool   // requests wait for room, and the last round made none
	commits int64         // upkeep's own; of the pool, when it last woke compressors
	thread  bool          // it runs on a thread of its own; set by that, which alone commits from then on
	tid     atomic.Int64  // of that thread; 0: it has none
	quiet   atomic.Bool   // whoever commits or returns memory now read-holds disk.quiet
}

// poolMemory is memory of the pool. It tells the thread of upkeep when it takes
// some for it, and lets go of quiet meanwhile: what is asked for may come only
// when others have swapped, and they wait for a check that wants the disk quiet.
// To the pool these pages are void as long as that takes.
type poolMemory struct {
	pool.Memory
	d *disk
}

// Populate implements pool.Memory.
func (m poolMemory) Populate(off, n int64) error {
	d := m.d
	if d.upkeep.quiet.Load() {
		d.quiet.RUnlock()
		defer d.quiet.RLock()
	}
	if d.upkeep.thread {
		d.thread(true)
		defer d.thread(false)
	}
	return m.Memory.Populate(off, n)
}

// Punch implements pool.Memory.
func (m poolMemory) Punch(off, n int64) error {
	if d := m.d; d.upkeep.quiet.Load() {
		d.quiet.RUnlock()
		defer d.quiet.RLock()
	}
	return m.Memory.Punch(off, n)
}

func (u *upkeep) poke() {
	select {
	case u.wake <- struct{}{}:
	default:
	}
}

// fillReserve commits the populated reserve of a new disk before its first request.
func (d *disk) fillReserve() error {
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
	if d.thread != nil {
		runtime.LockOSThread() // for ever: what thread does to it is not undone
		d.thread(false)
		d.upkeep.thread = true
		d.upkeep.tid.Store(int64(unix.Gettid()))
	}
	second := time.NewTicker(time.Second)
	defer second.Stop()
	retry := time.NewTimer(lastPause)
	defer retry.Stop()
	for pause := firstPause; ; {
		tick := false
		select {
		case <-d.stop:
			return
		case <-second.C:
			d.clock.Store(bootSeconds())
		case <-retry.C:
			tick = true
			pause = min(2*pause, lastPause)
		case <-d.pool.Wake():
		case <-d.upkeep.wake:
		}
		wait := d.keepUp()
		wait = d.wakeStalled(tick) || wait
		if wait {
			retry.Reset(pause)
		} else if !tick {
			pause = firstPause
		}
	}
}

// wakeStalled wakes the compressors that found no room, when there is more of
// it or some time has passed; else again says that they still wait.
func (d *disk) wakeStalled(tick bool) (again bool) {
	if !d.upkeep.stalled.Load() {
		return false
	}
	commits := d.pool.Stats().Commits
	if !tick && commits == d.upkeep.commits {
		return true
	}
	d.upkeep.commits = commits
	d.upkeep.stalled.Store(false)
	d.frames.WakeAll()
	return false
}

// stall notes that a compressor could not store its page; the frames stay
// where they are, readable, until upkeep wakes it. Nothing acknowledged is lost.
func (d *disk) stall() {
	d.upkeep.stalled.Store(true)
	d.upkeep.poke()
}

// keepUp maintains the pool until there is nothing left to do, and after each
// step carries on whoever waits for room. A step that made room may have lost it
// to others, and another follows at once. When one made none, because the machine
// has no memory or all there is has been made, whoever waited as long as is
// allowed gets ErrNoSpace. again: some wait on, and are to be seen to soon.
func (d *disk) keepUp() (again bool) {
	d.quiet.RLock()
	defer d.quiet.RUnlock()
	d.upkeep.quiet.Store(true)
	defer d.upkeep.quiet.Store(false)
	for commits := int64(-1); ; {
		more, err := d.pool.Maintain()
		waited, progress := d.retryRoom()
		if more && err == nil {
			continue
		}
		if !waited {
			d.upkeep.short.Store(false)
			return false
		}
		before := commits
		commits = d.pool.Stats().Commits
		if err != nil || !progress && commits == before {
			again = d.giveUp(time.Now())
			d.upkeep.short.Store(again)
			return again
		}
	}
}

// retryTries is how many requests in a row may find no room before the others
// are left for the next round: each costs a compression.
const retryTries = 16

// retryRoom carries on the requests that wait for room: waited says that there
// were any, progress that one of them got further. Who found none comes after
// those who were not tried, who may need less of it.
func (d *disk) retryRoom() (waited, progress bool) {
	var failed requests
	tries := 0
	for r := d.waiting.room.takeAll(); r != nil; {
		next := r.next
		r.next = nil
		waited = true
		if tries == retryTries {
			d.waiting.room.push(r)
			r = next
			continue
		}
		before := r.done
		d.limited(r, false) // from here on it may be another's
		back := d.lendHeld()
		err := d.step(r)
		back()
		switch err {
		case errPark:
			progress = true
		case errRoom, errLimit:
			d.limited(r, err == errLimit)
			tries++
			if r.done > before {
				progress = true
				tries = 0
				r.until = time.Now().Add(d.patience(err))
			}
			failed.push(r)
		default:
			progress = true
			tries = 0
			d.answer(r, err)
		}
		r = next
	}
	for r := failed.takeOne(); r != nil; r = failed.takeOne() {
		d.waiting.room.push(r)
	}
	return waited, progress
}

// giveUp answers who has waited for room long enough, with the old content
// kept; again says that others wait on.
func (d *disk) giveUp(now time.Time) (again bool) {
	for r := d.waiting.room.takeAll(); r != nil; {
		next := r.next
		r.next = nil
		switch {
		case !now.Before(r.until):
			err := errRoom
			if r.limited {
				err = errLimit
			}
			d.limited(r, false)
			d.answer(r, d.refuse(err))
		default:
			again = true
			d.waiting.room.push(r)
		}
		r = next
	}
	return again
}

// patience is how long a write waits for the room that err says is missing.
func (d *disk) patience(err error) time.Duration {
	if err == errLimit {
		return d.ladder.policy.Load().wait
	}
	return d.roomWait
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
