package fuseconn

import (
	"math/bits"
	"runtime"
	"sync/atomic"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/zramfs/zramfs/internal/invariants"
	"github.com/zramfs/zramfs/internal/percpu"
	"github.com/zramfs/zramfs/internal/uring"
)

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

// loop serves until it is stopped.
func (ln *lane) loop(pinned func(error)) {
	runtime.LockOSThread() // never unlocked, as a reader's
	if err := percpu.Pin(ln.cpu); err != nil {
		pinned(err)
	}
	batch()
	ln.begin()
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
		ln.yield()
	}
}

// begin looks at every entry: an earlier worker may have left something there.
func (ln *lane) begin() {
	for i := range ln.entries {
		ln.take(i, ln)
	}
	ln.parked.Add(0) // see take
	ln.scanned.Store(true)
	ln.wakePump() // which the worker before may have been about to do, as in yield
	uring.Wake(&ln.turn)
}

// yield gives the pump its turn.
func (ln *lane) yield() {
	ln.parked.Add(0) // see take
	invariants.CrashPoint("ring.turn")
	ln.turn.Store(turnPump)
	invariants.CrashPoint("ring.turned")
	uring.Wake(&ln.turn)
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
	invariants.CrashPoint("ring.claim")
	if ln.todo[w].And(^mask)&mask == 0 {
		return false
	}
	invariants.CrashPoint("ring.claimed")
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
	invariants.CrashPoint("ring.begun")
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
