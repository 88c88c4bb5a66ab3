package fuseconn

import (
	"runtime"
	"sync/atomic"
	"syscall"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/zramfs/zramfs/internal/percpu"
)

// reader is one thread that reads requests. All of it but spare and count
// belongs to that thread.
type reader struct {
	number  int     // immutable
	cpu     int     // immutable; -1: not pinned
	fd      uintptr // immutable
	handler Handler // immutable
	control *control
	door    *door // immutable
	rush    rush

	buffers []*Request    // immutable; all that exist
	spare   chan *Request // not in use; has room for all
	current *Request      // where the next request goes

	count counters
}

// counters are written by the reader's thread, and by who answers its parked
// requests; each reader's lie on their own cache lines.
type counters struct {
	_                                [percpu.CacheLine]byte
	requests, reads, writes, control atomic.Uint64
	parked, last, waits, refused     atomic.Uint64
	survived, failed                 atomic.Uint64
	resent, poisoned                 atomic.Uint64
	alone, watched                   atomic.Uint64
	_                                [percpu.CacheLine]byte
}

// newReader makes a reader with all of mem, cut into buffers of size bytes.
func newReader(number, cpu int, fd uintptr, h Handler, c *control, d *door, mem []byte, size int) *reader {
	n := len(mem) / size
	rd := &reader{
		number: number, cpu: cpu, fd: fd, handler: h, control: c, door: d, spare: make(chan *Request, n),
	}
	for i := range n {
		b := mem[i*size:][:size:size]
		r := &Request{
			reader: rd, Reader: number,
			head: b[:pageSize:pageSize], page: b[pageSize:], index: indexAt(b),
		}
		h.Attach(r)
		rd.buffers = append(rd.buffers, r)
		if i > 0 {
			rd.spare <- r
		}
	}
	rd.current = rd.buffers[0]
	return rd
}

// loop reads and serves until the connection ends, then waits for the parked
// requests. pinned says how pinning went.
func (rd *reader) loop(pinned func(error)) {
	// Never unlocked: a thread with an affinity of its own ends with its
	// goroutine, and is not used for another.
	runtime.LockOSThread()
	if rd.cpu >= 0 {
		if err := percpu.Pin(rd.cpu); err != nil {
			pinned(err)
		}
	}
	batch()
	for failures := 0; ; {
		n, errno := rd.receive()
		switch errno {
		case 0:
			failures = 0
			rd.serveOne(n)
		case syscall.ENODEV:
			for range len(rd.buffers) - 1 {
				<-rd.spare
			}
			return
		default:
			// ENOENT: the request was interrupted. EINTR, EAGAIN, ENOMEM, EIO,
			// ...: the machine is in trouble; this thread may be its way out.
			rd.count.survived.Add(1)
			backoff(failures)
			failures++
		}
	}
}

// read waits for the next request.
func (rd *reader) read() (int, syscall.Errno) {
	// Not RawSyscall: the garbage collector would wait for this thread.
	n, _, errno := syscall.Syscall(syscall.SYS_READ, rd.fd,
		uintptr(unsafe.Pointer(&rd.current.head[requestAt])), uintptr(rwInSize+len(rd.current.page)))
	if errno != 0 {
		rd.door.open() // whatever it is, all are to see it
	}
	return int(n), errno
}

// serveOne serves the request of n bytes in the current buffer.
func (rd *reader) serveOne(n int) {
	r := rd.current
	h := in[fuse.InHeader](r.head)
	if n < inHeaderSize || int(h.Length) != n {
		rd.count.survived.Add(1)
		return
	}
	// What interrupts a request that came again has its mark.
	if h.Unique&resent != 0 && h.Opcode != opInterrupt && rd.again(r, h.Unique) {
		return
	}
	switch h.Opcode {
	case opRead:
		rd.count.reads.Add(1)
	case opWrite:
		rd.count.writes.Add(1)
	case opFallocate, opFsync:
	case opForget, opBatchForget:
		return // node ids are constants
	default:
		rd.handOver(r, n)
		return
	}
	if !rd.handler.IsDisk(h.NodeId) {
		rd.handOver(r, n)
		return
	}
	rd.count.requests.Add(1)
	r.Node, r.unique = h.NodeId, h.Unique
	r.index.open(r.unique)
	if !r.parse(n) {
		r.Data = nil
		r.answer(0, syscall.EINVAL)
		return
	}
	if r.Last = len(rd.spare) == 0; r.Last {
		rd.count.last.Add(1)
	}
	if r.long() {
		rd.door.open()
	}
	// A panic in there ends the process: it may hold locks that every other
	// request needs, and whoever waits for them would never be answered.
	done, parked, errno := rd.handler.Serve(r)
	if !parked {
		r.answer(done, errno)
		return
	}
	// From here r may already be in use again.
	rd.count.parked.Add(1)
	rd.take()
}

// again looks at a request that an earlier worker has seen, too: true, it is
// answered.
func (rd *reader) again(r *Request, unique uint64) bool {
	rd.count.resent.Add(1)
	if !rd.control.before.poisons(unique) {
		return false
	}
	rd.count.poisoned.Add(1)
	rd.deny(r, unique, syscall.EIO)
	return true
}

// take makes a spare buffer the current one. It may have to wait for one.
func (rd *reader) take() {
	rd.door.open()
	select {
	case rd.current = <-rd.spare:
	default:
		rd.count.waits.Add(1)
		rd.current = <-rd.spare
	}
}

// stats reads the counters.
func (rd *reader) stats() ReaderStats { return rd.count.stats(rd.cpu) }

func (c *counters) stats(cpu int) ReaderStats {
	return ReaderStats{
		CPU:      cpu,
		Requests: c.requests.Load(),
		Reads:    c.reads.Load(),
		Writes:   c.writes.Load(),
		Control:  c.control.Load(),
		Parked:   c.parked.Load(),
		Last:     c.last.Load(),
		Waits:    c.waits.Load(),
		Refused:  c.refused.Load(),
		Survived: c.survived.Load(),
		Failed:   c.failed.Load(),
		Resent:   c.resent.Load(),
		Poisoned: c.poisoned.Load(),
		Alone:    c.alone.Load(),
		Watched:  c.watched.Load(),
	}
}
