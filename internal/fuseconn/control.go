package fuseconn

import (
	"runtime"
	"syscall"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/zramfs/zramfs/internal/invariants"
)

// control is the one thread that answers what is not for a disk, through
// go-fuse. It may allocate and wait; readers copy their request into a slot
// and read on. A request that is larger than a slot keeps its buffer. For a
// write that may take long it starts a goroutine, and goes on.
type control struct {
	proto *fuse.ProtocolServer // immutable; used by the control thread
	reply []byte               // immutable; used by the control thread

	free chan *slot // slots not in use; has room for all
	todo chan *slot // has room for all slots

	releases chan release // handles to give back
	own      *slot        // for these, of the control thread; not in free

	slow slow

	before *before // immutable
}

// slot is a control request on its way. It belongs to the reader until it is
// sent to todo, then to the control thread.
type slot struct {
	mem   []byte // immutable
	index *index // immutable
	n     int    // bytes of the request
	fd    uintptr
	id    uint64 // of a slow write
	// large is the buffer that holds the request, nil if mem does. On a ring
	// every request stays in its entry, until it is answered there.
	large *Request
	ring  bool // it came on one
}

// attributeMax is what a file that is not a disk takes of one write(2): a
// page, as the kernel's sysfs does.
const attributeMax = pageSize

func newControl(tree fuse.RawFileSystem, opts *fuse.MountOptions, slots, reply []byte, releases int, b *before) *control {
	n := len(slots) / slotSize
	c := &control{
		reply: reply, before: b, free: make(chan *slot, n), todo: make(chan *slot, n), releases: newReleases(releases),
	}
	c.slow = newSlow(tree, n)
	c.slow.start = c.slow.running.Go
	opts.PanicHandler = endByPanic
	c.proto = fuse.NewProtocolServer(tree, opts)
	for i := range n {
		m := slots[i*slotSize:][:slotSize:slotSize]
		c.free <- &slot{mem: m, index: indexAt(m)}
	}
	c.own = <-c.free
	return c
}

// endByPanic has a panic of the tree end the process, as one of a Handler does.
// go-fuse would answer EIO and go on, with whatever locks are held.
func endByPanic(p any) fuse.Status { panic(p) }

// handOver gives the request of n bytes in r to the control thread. Where
// there is no room for it, it is refused: a reader does not wait.
func (rd *reader) handOver(r *Request, n int) {
	rd.count.control.Add(1)
	h := in[fuse.InHeader](r.head)
	if h.Opcode == opRelease && rd.letGo(r, n) {
		return
	}
	unique := h.Unique
	if h.Opcode == opWrite {
		if w := in[fuse.WriteIn](r.head); w.Size > attributeMax {
			w.Size, n = attributeMax, rwInSize+attributeMax
			w.Length = uint32(n)
		}
	}
	var s *slot
	select {
	case s = <-rd.control.free:
	default:
		rd.refuse(r, unique, syscall.EAGAIN)
		return
	}
	s.n, s.fd, s.large, s.ring = n, rd.fd, nil, false
	if n > slotMax && len(rd.spare) == 0 {
		rd.control.free <- s
		rd.refuse(r, unique, syscall.EAGAIN)
		return
	}
	if h.Opcode != opInterrupt { // which is not answered
		s.index.open(unique)
	}
	if n <= slotMax {
		invariants.Copy("conn.slot", s.mem[slotRequest:], r.head[requestAt:])
		if n > rwInSize {
			invariants.Copy("conn.slot.data", s.mem[slotRequest+rwInSize:], r.page[:n-rwInSize])
		}
		invariants.CrashPoint("conn.slot.full")
		rd.control.todo <- s
		return
	}
	s.large = r
	rd.control.todo <- s
	rd.take()
}

// refuse answers a request of any kind that there is no room for.
func (rd *reader) refuse(r *Request, unique uint64, errno syscall.Errno) {
	rd.count.refused.Add(1)
	rd.deny(r, unique, errno)
}

// deny answers a request of any kind with an errno, from its buffer.
func (rd *reader) deny(r *Request, unique uint64, errno syscall.Errno) {
	out := (*fuse.OutHeader)(unsafe.Pointer(&r.head[replyAt]))
	*out = fuse.OutHeader{Length: uint32(outHeaderSize), Status: -int32(errno), Unique: unique}
	invariants.CrashPoint("conn.deny")
	send(rd.fd, unsafe.Pointer(out), outHeaderSize)
	invariants.CrashPoint("conn.denied")
}

// request is the bytes of the request: header at the start, contiguous.
func (s *slot) request() []byte {
	if s.large == nil {
		return s.mem[slotRequest:][:s.n]
	}
	// Head page and payload lie next to each other.
	if s.ring {
		e := s.large.entry
		return unsafe.Slice(&e.head[e.at], s.n)
	}
	return unsafe.Slice(&s.large.head[requestAt], s.n)
}

// loop serves until todo is closed.
func (c *control) loop() {
	runtime.LockOSThread()
	for {
		select {
		case s := <-c.slow.ended:
			c.retire(s)
		case r := <-c.releases:
			c.release(r)
		case s, ok := <-c.todo:
			c.releaseAll()
			if !ok {
				c.slow.finish()
				return
			}
			c.serve(s)
		}
	}
}

// serve answers a request, or starts what answers it.
func (c *control) serve(s *slot) {
	request := s.request()
	if h := (*fuse.InHeader)(unsafe.Pointer(unsafe.SliceData(request))); h.Opcode == opInterrupt {
		c.slow.interrupt(request)
		c.free <- s
		return
	} else if h.Opcode == opWrite && c.slow.is(h.NodeId) {
		c.store(s, request)
		return
	}
	c.finish(s, request)
	c.free <- s
}

// finish does a request that is not slow, and answers it.
func (c *control) finish(s *slot, request []byte) {
	if n := c.handle(request); n > 0 {
		s.answer(c.reply[:n])
		c.before.answered()
	}
	s.close()
	c.giveBack(s)
}

// answer sends a reply.
func (s *slot) answer(reply []byte) {
	if s.ring {
		s.large.lane.answerControl(s.large, reply)
		s.large = nil // and it may be in use again
		return
	}
	invariants.CrashPoint("conn.control.answer")
	send(s.fd, unsafe.Pointer(unsafe.SliceData(reply)), len(reply))
}

// close notes that the request is answered. An entry of a ring knows.
func (s *slot) close() {
	if !s.ring {
		s.index.close()
	}
}

// giveBack gives the buffer of a large request to its reader.
func (c *control) giveBack(s *slot) {
	if r := s.large; r != nil && !s.ring {
		s.large = nil
		r.reader.spare <- r
	}
}

// handle answers a request; n bytes of reply are in c.reply, 0: no reply.
func (c *control) handle(request []byte) (n int) {
	h := (*fuse.InHeader)(unsafe.Pointer(unsafe.SliceData(request)))
	unique := h.Unique
	status := fuse.ENOSYS
	if served(h.Opcode) {
		if h.Opcode == opRead || h.Opcode == opReaddir {
			if q := (*fuse.ReadIn)(unsafe.Pointer(h)); len(request) >= rwInSize {
				q.Size = min(q.Size, uint32(len(c.reply)-pageSize))
			}
		}
		n, status = c.proto.HandleRequest([][]byte{request}, [][]byte{c.reply})
		if n > 0 || status.Ok() {
			return n
		}
	}
	out := (*fuse.OutHeader)(unsafe.Pointer(unsafe.SliceData(c.reply)))
	*out = fuse.OutHeader{Length: uint32(outHeaderSize), Status: -int32(status), Unique: unique}
	return outHeaderSize
}
