package fuseconn

import (
	"syscall"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/zramfs/zramfs/internal/invariants"
	"github.com/zramfs/zramfs/internal/uring"
)

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
	// By the length that came: a worker that died may have cut it already.
	if most := rwInSize + attributeMax; h.Opcode == opWrite && n > most {
		w := (*fuse.WriteIn)(unsafe.Pointer(h))
		w.Size = attributeMax
		invariants.CrashPoint("ring.cut")
		w.Length, n = uint32(most), most
		invariants.CrashPoint("ring.cut.length")
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
		invariants.CrashPoint("ring.reply.size")
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

// give gives back the entry of a request that is answered. The pump looks when
// it has its turn again, or is told.
func (ln *lane) give(place int, by *lane) {
	if by == ln {
		ln.tell(place)
		return
	}
	ln.release(place)
}

// tell says that an entry is answered.
func (ln *lane) tell(i int) {
	ln.ready[i/64].Or(1 << (i % 64))
	invariants.CrashPoint("ring.told")
}

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
	invariants.CrashPoint("ring.late")
	ln.late.Add(1)
	invariants.CrashPoint("ring.woken")
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
	invariants.Copy("ring.control", r.page, reply[outHeaderSize:][:n])
	r.entry.reply(r.ID(), n, errno)
	ln.release(r.place)
}
