package fuseconn

import (
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/zramfs/zramfs/internal/percpu"
	"github.com/zramfs/zramfs/internal/uring"
)

// door decides how many readers wait for requests.
//
// The kernel gives a request to the reader that has waited longest. With one on
// each CPU, a program that asks for one page at a time wakes another CPU for
// every page. So while requests come one by one a single reader waits, the
// doorman, and stays awake for a moment before it sleeps. The others sleep outside. As soon as requests queue up, or one has to
// wait for something, all are let in.
//
// Nobody outside is needed: the doorman opens before it does what may take long,
// and where it does not get its CPU Relieve does.
type door struct {
	look  time.Duration // how long a doorman stays awake; 0: there never is one; immutable
	epoch time.Time     // immutable

	_       [percpu.CacheLine]byte
	doorman atomic.Int32  // 1 + the number of the reader that waits alone; 0: the door is open
	bell    atomic.Uint32 // futex of those outside; counts openings
	_       [percpu.CacheLine]byte
}

const (
	// lookTime is how long a doorman looks for the next request before it
	// sleeps. To wake a CPU that sleeps takes 5 to 20 us, in a virtual machine
	// more.
	lookTime = 20 * time.Microsecond
	// othersTime: whoever does not get its CPU back from sched_yield(2) for so
	// long shares it, and sleeps instead.
	othersTime = 8 * time.Microsecond
	// clockTime is the most that reading the clock may take.
	clockTime = 250 * time.Nanosecond
	// farTime: after a wait so long the next request is not expected soon.
	farTime = 5 * lookTime
	// It gives up to look after so many times in vain, for so many requests.
	vainLooks, restLooks = 8, 56
	// copyTime is the most that read(2) takes for a request that was there,
	// besides half a nanosecond for each byte.
	copyTime = 4 * time.Microsecond

	// One request in sampled is weighed while the door is open. closeAfter is how
	// many of these a reader has to have waited for to become the doorman;
	// openAfter, how many were there already for a doorman to open. Each of the
	// other kind takes back two.
	sampled    = 8
	closeAfter = 8
	openAfter  = 16
	// largeBytes of payload count as one more request that was there.
	largeBytes = 16 << 10
	// Whoever serves a request of more data, or a discard of more, opens first:
	// it takes longer than to wake another reader.
	longBytes   = 64 << 10
	longDiscard = 1 << 20
)

// newDoor makes an open door on a machine of so many CPUs. With one, nobody
// could ask while a doorman looks; and who looks must be able to tell the time.
func newDoor(cpus int) *door {
	d := &door{epoch: time.Now()}
	if cpus > 1 && d.quick() {
		d.look = lookTime
	}
	return d
}

// quick says whether the clock can be read in much less time than a request
// takes. An emulated machine may need microseconds.
func (d *door) quick() bool {
	const reads, tries = 32, 8 // the best of some: others may run meanwhile
	for range tries {
		from := d.now()
		for range reads - 2 {
			_ = d.now()
		}
		if d.now()-from < reads*clockTime {
			return true
		}
	}
	return false
}

// now is a clock of this door.
func (d *door) now() time.Duration { return time.Since(d.epoch) }

// open lets all readers in.
func (d *door) open() {
	if d.doorman.Load() == 0 {
		return
	}
	d.doorman.Store(0)
	d.bell.Add(1)
	uring.Wake(&d.bell)
}

// close leaves one reader in, if the door is open.
func (d *door) close(number int) { d.doorman.CompareAndSwap(0, int32(number)+1) }

// enter waits until a reader may wait for requests, and says whether it does so
// alone.
func (d *door) enter(number int) (alone bool) {
	for {
		heard := d.bell.Load() // first: it rings after doorman is stored
		switch d.doorman.Load() {
		case 0:
			return false
		case int32(number) + 1:
			return true
		}
		uring.Wait(&d.bell, heard)
	}
}

// rush is how requests came lately. It belongs to a reader's thread.
type rush struct {
	alone  bool          // the reader is the doorman
	score  int           // of a doorman's requests, those that were there; of others', those that were waited for
	turn   uint          // counts requests
	waited time.Duration // of a doorman, for the last one
	vain   int           // of a doorman: looks in a row at which none came; above vainLooks, requests since then
}

// receive takes the next request into the current buffer, by the rules of the
// door.
func (rd *reader) receive() (int, syscall.Errno) {
	r := &rd.rush
	if rd.door.look == 0 {
		return rd.read()
	}
	if alone := rd.door.enter(rd.number); alone != r.alone {
		*r = rush{alone: alone}
		if alone {
			rd.count.alone.Add(1)
		}
	}
	if r.turn++; !r.alone && r.turn%sampled != 0 {
		return rd.read()
	}
	from := rd.door.now()
	there := r.alone && rd.pending()
	if r.alone && !there && r.waited < farTime {
		rd.watch(from)
	}
	n, errno := rd.read()
	if errno != 0 {
		return n, errno
	}
	r.waited = rd.door.now() - from
	if !r.alone {
		there = r.waited < copyTime+time.Duration(n/2)
	}
	rd.weigh(there, n)
	return n, 0
}

// weigh takes one more request of n bytes into account.
func (rd *reader) weigh(there bool, n int) {
	r, many := &rd.rush, 1+n/largeBytes
	switch {
	case r.alone && there:
		if r.score += many; r.score >= openAfter {
			rd.door.open()
		}
	case r.alone:
		r.score = max(r.score-2, 0)
	case there:
		r.score = max(r.score-2*many, 0)
	default:
		if r.score++; r.score >= closeAfter {
			r.score = 0
			rd.door.close(rd.number)
		}
	}
}

// long says whether a request may take long to serve.
func (r *Request) long() bool { return len(r.Data) > longBytes || r.Length > longDiscard }

// Relieve lets all readers in where a request waits and none has been taken
// since the last call: whoever should take it does not get its CPU. One
// goroutine calls it, now and then.
func (p *PerCPU) Relieve() {
	taken := uint64(0)
	for _, rd := range p.readers {
		taken += rd.count.requests.Load() + rd.count.control.Load()
	}
	if taken == p.taken && p.readers[0].pending() {
		p.readers[0].door.open()
	}
	p.taken = taken
}

// pending says whether a request is there.
func (rd *reader) pending() bool {
	p := pollFD{fd: int32(rd.fd), events: unix.POLLIN}
	n, _, _ := syscall.RawSyscall(syscall.SYS_POLL, uintptr(unsafe.Pointer(&p)), 1, 0)
	return int(n) > 0
}

// pollFD is struct pollfd.
type pollFD struct {
	fd              int32
	events, revents int16
}

// watch looks for a request for a moment, and lets others have the CPU.
func (rd *reader) watch(from time.Duration) {
	r := &rd.rush
	if r.vain++; r.vain > vainLooks {
		if r.vain > vainLooks+restLooks {
			r.vain = 0
		}
		return
	}
	for last := from; last-from < rd.door.look; {
		_, _, _ = syscall.RawSyscall(syscall.SYS_SCHED_YIELD, 0, 0, 0)
		if rd.pending() {
			rd.count.watched.Add(1)
			r.vain = 0
			return
		}
		now := rd.door.now()
		if now-last >= othersTime {
			return
		}
		last = now
	}
}
