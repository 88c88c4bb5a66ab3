package fuseconn

import (
	"errors"
	"fmt"
	"math/bits"
	"runtime"
	"sync/atomic"
	"syscall"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/zramfs/zramfs/internal/percpu"
	"github.com/zramfs/zramfs/internal/uring"
)

// ErrNoRing: the kernel does not offer FUSE over io_uring for this mount.
var ErrNoRing = errors.New("kernel offers no FUSE over io_uring")

// Ring is the worker's half of transport ring: a thread for each lane of a
// Pump that serves what lies in shared memory. INIT, FORGET and what came
// before the rings were there arrive on /dev/fuse, where a PerCPU with one
// reader serves them.
//
// A worker may die at any point. The next one looks at every entry: what is
// answered is committed, what was begun is done again as if the kernel had sent
// it again (Request.Resent), the rest is new.
type Ring struct {
	*PerCPU
	lanes []*lane // immutable
}

var _ Conn = (*Ring)(nil)

// lane is one thread of the worker. All of it but parked and count belongs to
// that thread; a Request that is parked belongs to who parked it.
type lane struct {
	laneView
	number   int // immutable, as are the next three
	cpu      int
	handler  Handler
	control  *control
	requests []*Request      // of each entry; immutable
	taken    []atomic.Uint64 // per entry, the last request that a thread of this worker took
	parked   atomic.Int32
	own      int         // entries of its CPU's queue; immutable
	others   []*lane     // of this worker; immutable once they serve
	scanned  atomic.Bool // it has looked everywhere: from now on a bit in todo is for who takes it
	idle     atomic.Bool // its thread sleeps, or is about to
	stop     atomic.Bool
	ended    atomic.Bool
	count    counters
}

// NewRing builds on NewPerCPU, with the same rules.
func NewRing(cfg PerCPUConfig) (*Ring, error) {
	if len(cfg.Layout.Ring.CPUs) == 0 {
		return nil, fmt.Errorf("fuseconn: a ring without lanes: %w", errors.ErrUnsupported)
	}
	p, err := NewPerCPU(cfg)
	if err != nil {
		return nil, err
	}
	n := len(cfg.Clones)
	if err := populateRing(cfg.Memory, cfg.Layout, n); err != nil {
		return nil, err
	}
	r := &Ring{PerCPU: p}
	for i, cpu := range cfg.Layout.Ring.CPUs {
		r.lanes = append(r.lanes, newLane(viewLane(cfg.Memory, cfg.Layout, n, i), i, cpu, cfg.Layout.Ring.Depth, cfg.Handler, p.control))
	}
	for _, ln := range r.lanes {
		for _, other := range r.lanes {
			if other != ln {
				ln.others = append(ln.others, other)
			}
		}
	}
	return r, nil
}

func newLane(v laneView, number, cpu, own int, h Handler, c *control) *lane {
	ln := &lane{
		laneView: v, number: number, cpu: cpu, handler: h, control: c, own: own, taken: make([]atomic.Uint64, len(v.entries)),
	}
	for i := range v.entries {
		e := &ln.entries[i]
		r := &Request{Reader: number, head: e.head, page: e.page, lane: ln, entry: e, place: i}
		h.Attach(r)
		ln.requests = append(ln.requests, r)
	}
	return ln
}

// Transport is the transport's name.
func (r *Ring) Transport() string { return "ring" }

// Init is PerCPU's. Without an offer of the kernel there is no ring.
func (r *Ring) Init() error {
	if err := r.PerCPU.Init(); err != nil {
		return err
	}
	if r.negotiated.Flags&fuse.CAP_OVER_IO_URING == 0 {
		return fmt.Errorf("fuseconn: INIT: %w", ErrNoRing)
	}
	return nil
}

// Serve runs lanes, reader and control thread until the kernel has ended the
// connection and every request is answered.
func (r *Ring) Serve() error {
	start := func() {
		for _, ln := range r.lanes {
			go ln.loop(r.notPinned)
		}
	}
	stop := func() {
		for _, ln := range r.lanes {
			ln.end()
		}
	}
	drain := func() {
		for _, ln := range r.lanes {
			for ln.parked.Load() > 0 {
				backoff(10)
			}
		}
	}
	return r.serve(start, stop, drain)
}

// Stats reads the counters.
func (r *Ring) Stats() Stats {
	s := r.PerCPU.Stats()
	for _, ln := range r.lanes {
		c := ln.count.stats(ln.cpu)
		s.Readers = append(s.Readers, c)
		s.Resent += c.Resent
		s.Poisoned += c.Poisoned
	}
	return s
}

// loop serves until it is stopped.
func (ln *lane) loop(pinned func(error)) {
	runtime.LockOSThread() // never unlocked, as a reader's
	if err := percpu.Pin(ln.cpu); err != nil {
		pinned(err)
	}
	batch()
	for i := range ln.entries {
		ln.take(i, ln)
	}
	ln.parked.Add(0) // see take
	ln.scanned.Store(true)
	ln.wakePump() // which the worker before may have been about to do, as below
	uring.Wake(&ln.turn)
	for {
		// It is given back by who has it only: todo may be filled at any time.
		for ln.turn.Load() == turnPump {
			if ln.stop.Load() {
				ln.ended.Store(true)
				return
			}
			if ln.help() {
				continue
			}
			ln.idle.Store(true)
			uring.Wait(&ln.turn, turnPump)
			ln.idle.Store(false)
		}
		ln.serve()
		ln.parked.Add(0) // see take
		ln.turn.Store(turnPump)
		uring.Wake(&ln.turn)
	}
}

// end stops the thread.
func (ln *lane) end() {
	ln.stop.Store(true)
	for !ln.ended.Load() { // it may just be about to sleep
		uring.Wake(&ln.turn)
		backoff(5)
	}
}

// serve goes through what the pump has brought. Of much, lanes whose CPU has
// nothing to do take some: the kernel sends all that is submitted on one CPU to
// its queue, and while we work there the submitter does not.
func (ln *lane) serve() {
	many := 0
	for w := range ln.words() {
		many += bits.OnesCount64(ln.todo[w].Load())
	}
	if many >= helpFrom {
		for _, other := range ln.others {
			if other.idle.Load() {
				uring.Wake(&other.turn)
			}
		}
	}
	for w := range ln.words() {
		for set := ln.todo[w].Load(); set != 0; set = ln.todo[w].Load() {
			ln.claim(w, bits.TrailingZeros64(set), ln)
		}
	}
}

// helpFrom is how many requests in a turn are worth waking another thread for.
const helpFrom = 4

// help takes a request that waits for the thread of another lane, if there is
// one. That has its turn for as long as it has something to do itself; what is
// taken from it is answered as a parked request is.
func (ln *lane) help() bool {
	for _, other := range ln.others {
		if !other.scanned.Load() {
			continue
		}
		for w := range other.words() {
			set := other.todo[w].Load()
			if bits.OnesCount64(set) < 2 { // the last is its own
				continue
			}
			if other.claim(w, bits.Len64(set)-1, ln) {
				return true
			}
		}
	}
	return false
}

// claim has by's thread serve an entry that is to do, unless another was faster.
func (ln *lane) claim(w, bit int, by *lane) bool {
	mask := uint64(1) << bit
	if ln.todo[w].And(^mask)&mask == 0 {
		return false
	}
	if i := w*64 + bit; i < len(ln.entries) {
		ln.take(i, by)
	}
	return true
}

// take serves the request of an entry on by's thread, if there is one that this
// worker has not begun. A bit says where to look and no more: who has cleared
// one that was left of an earlier request may come together with who has cleared
// that of the next, and taken decides. It is read before given, so that who was
// overtaken between the two fails. What another thread than the lane's takes
// counts as parked.
func (ln *lane) take(i int, by *lane) {
	e, r := &ln.entries[i], ln.requests[i]
	// The pump has it from whoever answered last, by way of the kernel, which
	// the race detector cannot know.
	ln.parked.Load()
	last := ln.taken[i].Load()
	id := e.given.Load()
	if id == 0 || id == last || !ln.taken[i].CompareAndSwap(last, id) {
		return
	}
	if by != ln {
		ln.parked.Add(1)
	}
	if e.done.Load() == id { // by an earlier worker
		ln.give(i, by)
		return
	}
	r.unique, r.Op = id, Sync
	again := e.begun.Load() == id
	if again {
		e.restore()
		r.unique |= resent
		ln.count.resent.Add(1)
		if ln.control.before.poisons(id) {
			ln.count.poisoned.Add(1)
			ln.refuse(r, syscall.EIO, by)
			return
		}
	} else if !e.keep(ln.isDisk) {
		ln.count.survived.Add(1)
		ln.refuse(r, syscall.EIO, by)
		return
	}
	e.begun.Store(id)
	h := e.request()
	h.Unique = r.unique
	if !ln.isDisk(h) {
		ln.handOver(r, by)
		return
	}
	switch h.Opcode {
	case opRead:
		ln.count.reads.Add(1)
	case opWrite:
		ln.count.writes.Add(1)
	}
	ln.count.requests.Add(1)
	r.Node, r.Reader = h.NodeId, by.number
	if !r.parse(int(e.n)) {
		ln.refuse(r, syscall.EINVAL, by)
		return
	}
	if r.Last = ln.full(0); r.Last {
		ln.count.last.Add(1)
	}
	done, parked, errno := ln.handler.Serve(r)
	if !parked {
		ln.reply(r, done, errno)
		ln.give(i, by)
		return
	}
	// From here r may already be in use again.
	ln.count.parked.Add(1)
	if by == ln {
		ln.parked.Add(1)
	}
}

// give gives back the entry of a request that is answered. The pump looks when
// it has its turn again, or is told.
func (ln *lane) give(place int, by *lane) {
	if by == ln {
		ln.tell(place)
		return
	}
	ln.release(place)
}

// isDisk says whether the Handler serves the request.
func (ln *lane) isDisk(h *fuse.InHeader) bool {
	switch h.Opcode {
	case opRead, opWrite, opFallocate, opFsync:
		return ln.handler.IsDisk(h.NodeId)
	}
	return false
}

// full says whether one more request that waits leaves no more than so many
// entries of the lane's own queue.
func (ln *lane) full(rest int) bool {
	return int(ln.parked.Load())+1+rest >= ln.own
}

// controlRest is how many entries of a queue of that depth control requests
// leave to the disks, besides one. Of the few that a queue has where there are
// many CPUs, they may have half.
func controlRest(depth int) int { return max(0, min(4, depth/2-1)) }

// handOver gives the request to the control thread. The entry stays in use
// until it is answered.
func (ln *lane) handOver(r *Request, by *lane) {
	ln.count.control.Add(1)
	e := r.entry
	n := int(e.n)
	h := e.request()
	if h.Opcode == opRelease && ln.letGo(r, by) {
		return
	}
	if h.Opcode == opWrite {
		if w := (*fuse.WriteIn)(unsafe.Pointer(h)); w.Size > attributeMax {
			w.Size, n = attributeMax, rwInSize+attributeMax
			w.Length = uint32(n)
		}
	}
	var s *slot
	if !ln.full(controlRest(ln.own)) {
		select {
		case s = <-ln.control.free:
		default:
		}
	}
	if s == nil {
		ln.count.refused.Add(1)
		ln.refuse(r, syscall.EAGAIN, by)
		return
	}
	if by == ln {
		ln.parked.Add(1)
	}
	s.n, s.large, s.ring = n, r, true
	ln.control.todo <- s
}

// reply writes the answer of a request for a disk.
func (ln *lane) reply(r *Request, n int, errno syscall.Errno) {
	if errno == 0 && r.Op <= Write && (n < 0 || n > len(r.Data)) {
		errno = syscall.EIO
	}
	size := 0
	switch {
	case errno != 0:
	case r.Op == Read:
		size = n
	case r.Op == Write:
		size = writeOutSize
		*(*fuse.WriteOut)(unsafe.Pointer(&r.page[0])) = fuse.WriteOut{Size: uint32(n)}
	}
	r.entry.reply(r.ID(), size, int32(errno))
	ln.control.before.answered()
}

// refuse answers a request of any kind with an errno.
func (ln *lane) refuse(r *Request, errno syscall.Errno, by *lane) {
	r.Op = Sync
	ln.reply(r, 0, errno)
	ln.give(r.place, by)
}

// tell says that an entry is answered.
func (ln *lane) tell(i int) { ln.ready[i/64].Or(1 << (i % 64)) }

// answerLate answers a parked request, from any thread.
func (ln *lane) answerLate(r *Request, n int, errno syscall.Errno) {
	ln.reply(r, n, errno)
	ln.release(r.place)
}

// release gives back the entry of a request that was parked and is answered.
// From then on the lane's thread may use it for another.
func (ln *lane) release(place int) {
	ln.parked.Add(-1)
	ln.tell(place)
	if ln.asleep.Load() != 0 {
		ln.wakePump()
	}
}

// wakePump wakes the pump if it waits for the kernel.
func (ln *lane) wakePump() {
	ln.late.Add(1)
	uring.Wake(&ln.late)
}

// answerControl answers with a reply as it would be written to /dev/fuse; too
// long a one is an error.
func (ln *lane) answerControl(r *Request, reply []byte) {
	out := (*fuse.OutHeader)(unsafe.Pointer(unsafe.SliceData(reply)))
	n, errno := len(reply)-outHeaderSize, -out.Status
	if n > len(r.page) {
		n, errno = 0, int32(syscall.EIO)
	}
	copy(r.page, reply[outHeaderSize:][:n])
	r.entry.reply(r.ID(), n, errno)
	ln.release(r.place)
}
