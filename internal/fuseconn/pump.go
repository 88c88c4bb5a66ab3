package fuseconn

import (
	"errors"
	"fmt"
	"math/bits"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/zramfs/zramfs/internal/percpu"
	"github.com/zramfs/zramfs/internal/uring"
)

// Pump is the half of transport ring that lives in the process which outlives
// workers. It owns rings, entries and commands, so that the death of a worker
// changes nothing in the kernel: a thread for each lane that waits for
// requests, hands them to the worker's thread in shared memory, and commits
// what that has answered. It never looks at what a request asks.
//
// The end of the process that runs it is the end of the connection.
type Pump struct {
	main  uintptr // the mounted file; immutable
	lanes []*pumpLane
	stop  atomic.Bool
	ended sync.WaitGroup
	done  chan struct{} // closed when no lane is left
	// broken gets a word from each lane that ends although the connection lasts.
	broken chan struct{}
}

// pumpLane is one thread. All of it belongs to that.
type pumpLane struct {
	laneView
	pump   *Pump
	cpu    int
	ring   *uring.Ring
	alive  int   // entries that the kernel has or will have
	armed  bool  // the kernel waits for late, too
	failed error // what the last entry that is not alive has met

	// The watch's: a worker that keeps its turn for long is stopped, or dead.
	turns atomic.Uint32 // that the worker was given
	nudge atomic.Bool   // set by the watch: look what the kernel has to say
}

const (
	cmdRegister = 1 // FUSE_IO_URING_CMD_REGISTER
	cmdCommit   = 2 // FUSE_IO_URING_CMD_COMMIT_AND_FETCH

	userLate = 1 << 63

	watchTime = time.Second
)

// ringCommand is struct fuse_uring_cmd_req.
type ringCommand struct {
	flags, commit uint64
	queue         uint16
	_             [6]byte
}

// ProbeRing says why this process cannot have the rings of a Pump, nil if it
// can.
func ProbeRing() error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	r, err := uring.New(ringDepth)
	if err != nil {
		return err
	}
	defer r.Close()
	return r.Probe()
}

// NewPump populates the memory, which all workers of the mount share, and
// prepares the lanes. It starts nothing.
func NewPump(main *os.File, l Layout, readers int, mem Memory) (*Pump, error) {
	if err := l.Ring.Check(); err != nil {
		return nil, err
	}
	if err := populateRing(mem, l, readers); err != nil {
		return nil, err
	}
	p := &Pump{main: main.Fd(), done: make(chan struct{}), broken: make(chan struct{}, len(l.Ring.CPUs))}
	for i, cpu := range l.Ring.CPUs {
		p.lanes = append(p.lanes, &pumpLane{laneView: viewLane(mem, l, readers, i), pump: p, cpu: cpu})
	}
	return p, nil
}

// Start registers all entries: from then on the kernel sends requests there.
// INIT has been answered before. After an error the connection cannot be used.
func (p *Pump) Start() error {
	registered := make(chan error, len(p.lanes))
	for _, ln := range p.lanes {
		p.ended.Go(func() { ln.run(registered) })
	}
	var err error
	for range p.lanes {
		err = errors.Join(err, <-registered)
	}
	go func() {
		p.ended.Wait()
		close(p.done)
	}()
	if err != nil {
		p.Stop()
		return err
	}
	go p.watch()
	go func() {
		select {
		case <-p.done:
		case <-p.broken: // whoever asks on that CPU would wait for ever
			p.Stop()
		}
	}()
	return nil
}

// Done is closed when all lanes have ended: the connection is over, or the
// rings have failed.
func (p *Pump) Done() <-chan struct{} { return p.done }

// Stop ends the lanes and gives the rings back. What is open then is answered
// when the last file of the connection is closed.
func (p *Pump) Stop() {
	p.stop.Store(true)
	for ended := false; !ended; {
		for _, ln := range p.lanes {
			ln.late.Add(1)
			uring.Wake(&ln.late)
			uring.Wake(&ln.turn)
		}
		select {
		case <-p.done:
			ended = true
		default:
			backoff(10)
		}
	}
}

// run is the life of a lane.
func (ln *pumpLane) run(registered chan<- error) {
	// Never unlocked: the ring is this thread's, and what is left in it is
	// cancelled when the thread ends with its goroutine.
	runtime.LockOSThread()
	_ = percpu.Pin(ln.cpu) // a CPU that has gone meanwhile; then it is only slower
	batch()
	var err error
	if ln.ring, err = uring.New(uint32(len(ln.entries)) + 8); err != nil {
		registered <- err
		return
	}
	defer ln.ring.Close()
	given := 0
	if given, err = ln.register(); err != nil {
		registered <- err
		return
	}
	registered <- nil
	for failures := 0; ln.alive > 0 && !ln.over() && !ln.pump.stop.Load(); {
		if given > 0 {
			ln.hand()
		}
		// In this order: what is ready after commit has looked wakes us.
		value := ln.late.Load()
		ln.asleep.Store(1)
		ln.commit()
		ln.arm(value)
		errno := ln.ring.Enter(1)
		ln.asleep.Store(0)
		if errno != 0 && !uring.Later(errno) {
			ln.failed = errno // the ring is of no use any more
			break
		}
		if given = ln.reap(); errno == 0 || given > 0 {
			failures = 0
			continue
		}
		backoff(failures)
		failures++
	}
	if !ln.over() && !ln.pump.stop.Load() {
		ln.pump.broken <- struct{}{}
	}
}

// registerTries bounds the waits for the kernel to have memory for that: whoever
// mounts waits.
const registerTries = 100

// register makes all entries known to the kernel. Requests may come at once.
func (ln *pumpLane) register() (given int, err error) {
	vectors := make([]unix.Iovec, 2*len(ln.entries))
	for i := range ln.entries {
		e := &ln.entries[i]
		e.given.Store(0)
		v := vectors[2*i : 2*i+2]
		v[0] = unix.Iovec{Base: &e.head[0], Len: uint64(unsafe.Sizeof(ringHead{}))}
		v[1] = unix.Iovec{Base: &e.page[0], Len: uint64(len(e.page))}
		s := ln.command(i, cmdRegister, 0)
		s.Addr, s.Len = uint64(uintptr(unsafe.Pointer(&v[0]))), 2
	}
	ln.alive = len(ln.entries)
	for failures := 0; ln.ring.Pending() > 0; failures++ {
		switch errno := ln.ring.Enter(0); {
		case errno == 0:
		case uring.Later(errno) && failures < registerTries:
			backoff(failures)
		default:
			return 0, fmt.Errorf("fuseconn: register ring entries: %w", errno)
		}
	}
	runtime.KeepAlive(vectors)
	given = ln.reap()
	if ln.failed != nil {
		return 0, fmt.Errorf("fuseconn: register ring entries: %w", ln.failed)
	}
	return given, nil
}

// command fills an entry of the submission queue.
func (ln *pumpLane) command(i int, cmd, commit uint64) *uring.Entry {
	s := ln.ring.Next()
	s.Op, s.FD, s.Off, s.User = uring.OpCommand, int32(ln.pump.main), cmd, uint64(i)
	*(*ringCommand)(unsafe.Pointer(&s.Command)) = ringCommand{commit: commit, queue: ln.queue[i]}
	return s
}

// hand gives the worker its turn, and waits until it has gone through what is
// to do. Where there is no worker, that is when the next one has.
func (ln *pumpLane) hand() {
	for more := 1; more > 0 && !ln.over(); {
		more = 0
		ln.turns.Add(1)
		ln.turn.Store(turnWorker)
		uring.Wake(&ln.turn)
		for ln.turn.Load() == turnWorker && ln.alive > 0 && !ln.over() && !ln.pump.stop.Load() {
			uring.Wait(&ln.turn, turnWorker)
			if ln.nudge.Load() && ln.nudge.Swap(false) {
				_ = ln.ring.Enter(0) // it fails later, too
				more += ln.reap()
			}
		}
	}
}

// over says that the connection has ended, as an entry without a request has
// told. One with a request never will: a worker that has ended does not answer
// it, and nobody waits for it any more.
func (ln *pumpLane) over() bool {
	return ln.failed == syscall.ENOTCONN || ln.failed == syscall.ECONNABORTED
}

// watch has lanes look at the kernel whose worker keeps its turn. A connection
// that is aborted meanwhile ends only when the thread of each entry says so: until
// then those who wait for it cannot even be killed.
func (p *Pump) watch() {
	tick := time.NewTicker(watchTime)
	defer tick.Stop()
	seen := make([]uint32, len(p.lanes))
	for {
		select {
		case <-p.done:
			return
		case <-tick.C:
		}
		for i, ln := range p.lanes {
			turns := ln.turns.Load()
			if ln.turn.Load() == turnWorker && turns == seen[i] {
				ln.nudge.Store(true)
				uring.Wake(&ln.turn)
			}
			seen[i] = turns
		}
	}
}

// commit prepares to answer what is ready.
func (ln *pumpLane) commit() {
	for w := range ln.words() {
		for set := ln.answered(w); set != 0; set &= set - 1 {
			i := w*64 + bits.TrailingZeros64(set)
			if id, ok := ln.clear(i); ok {
				ln.command(i, cmdCommit, id)
			}
		}
	}
}

// arm has the kernel wait for late to change, too.
func (ln *pumpLane) arm(value uint32) {
	if !ln.armed {
		ln.armed = true
		ln.ring.Next().FutexWait(&ln.late, value, userLate)
	}
}

// reap takes what the kernel has brought.
func (ln *pumpLane) reap() (given int) {
	for res, ok := ln.ring.Reap(); ok; res, ok = ln.ring.Reap() {
		switch {
		case res.User == userLate:
			ln.armed = false
		case res.N < 0:
			ln.alive--
			ln.failed = syscall.Errno(-res.N)
		default:
			ln.bring(int(res.User), ln.entries[res.User].ringHead.commit)
			given++
		}
	}
	return given
}

func (v *laneView) words() int { return (len(v.entries) + 63) / 64 }

// batch makes the calling thread one that interrupts nobody when it is woken:
// who submits requests on the same CPU then queues many of them between two
// switches.
func batch() {
	// Fails where the policy may not be changed; then it is only slower.
	_ = unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_BATCH}, 0)
}
