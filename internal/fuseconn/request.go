package fuseconn

import (
	"syscall"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/zramfs/zramfs/internal/invariants"
)

// Request is one request for a disk, and the buffer it lies in. It is made
// once and used again for the next request of its reader.
//
// A Request belongs to its reader until Serve says parked, then to the Handler
// until it calls Reply.
type Request struct {
	// Context is the Handler's own, set in Attach; immutable afterwards.
	Context any

	Op     Op
	Node   uint64
	Offset int64
	Length int64  // bytes, of Allocate; otherwise len(Data)
	Mode   uint32 // of Allocate
	// Data is the payload of a Write, or where a Read goes. It ends with Reply.
	Data []byte
	// Reader is who read it, from 0: the number of a CPU's stream.
	Reader int
	// Last says that parking this request would stop the reader.
	Last bool

	reader *reader // immutable; nil: another transport
	head   []byte  // head page; immutable
	page   []byte  // Layout.Payload bytes; immutable
	index  *index  // start of head; immutable
	unique uint64  // as the kernel sent it

	// Transport ring.
	lane  *lane      // immutable; nil: another transport
	entry *ringEntry // where it lies; immutable
	place int        // number of the entry; immutable

	// Transport gofuse: Reply leaves its arguments here.
	n     int
	errno syscall.Errno
	done  chan struct{}
}

// ID identifies the request across a resend.
func (r *Request) ID() uint64 { return r.unique &^ resent }

// Resent says that an earlier worker has seen the request, too.
func (r *Request) Resent() bool { return r.unique&resent != 0 }

// Reply answers a request that was parked: n bytes done, or an errno. Any
// thread may call it, once; the Request is gone afterwards.
func (r *Request) Reply(n int, errno syscall.Errno) {
	switch {
	case r.lane != nil:
		r.lane.answerLate(r, n, errno)
		return
	case r.reader == nil:
		r.n, r.errno = n, errno
		r.done <- struct{}{}
		return
	}
	r.answer(n, errno)
	r.reader.spare <- r // never blocks: there is room for all buffers
}

// in is the head of the request, seen as T.
func in[T any](head []byte) *T {
	return (*T)(unsafe.Pointer(&head[requestAt]))
}

// parse fills the fields from a READ, WRITE, FALLOCATE or FSYNC of n bytes.
func (r *Request) parse(n int) bool {
	r.Length, r.Mode, r.Data = 0, 0, nil
	switch h := in[fuse.InHeader](r.head); h.Opcode {
	case opRead:
		q := in[fuse.ReadIn](r.head)
		if n != int(unsafe.Sizeof(*q)) || int64(q.Size) > int64(len(r.page)) {
			return false
		}
		r.Op, r.Offset, r.Data = Read, int64(q.Offset), r.page[:q.Size]
	case opWrite:
		q := in[fuse.WriteIn](r.head)
		if n != rwInSize+int(q.Size) {
			return false
		}
		r.Op, r.Offset, r.Data = Write, int64(q.Offset), r.page[:q.Size]
	case opFallocate:
		q := in[fuse.FallocateIn](r.head)
		if n != int(unsafe.Sizeof(*q)) {
			return false
		}
		r.Op, r.Offset, r.Length, r.Mode = Allocate, int64(q.Offset), int64(q.Length), q.Mode
	case opFsync:
		r.Op, r.Offset = Sync, 0
	}
	return r.Offset >= 0 && r.Length >= 0
}

// answer writes the reply.
func (r *Request) answer(n int, errno syscall.Errno) {
	if errno == 0 && r.Op <= Write && (n < 0 || n > len(r.Data)) {
		errno = syscall.EIO
	}
	at, length := replyAt, outHeaderSize
	switch {
	case errno != 0:
	case r.Op == Read:
		at, length = pageSize-outHeaderSize, outHeaderSize+n
	case r.Op == Write:
		length += writeOutSize
		*(*fuse.WriteOut)(unsafe.Pointer(&r.head[replyAt+outHeaderSize])) = fuse.WriteOut{Size: uint32(n)}
	}
	out := (*fuse.OutHeader)(unsafe.Pointer(&r.head[at]))
	*out = fuse.OutHeader{Length: uint32(length), Status: -int32(errno), Unique: r.unique}
	invariants.CrashPoint("conn.answer")
	gone, failed := send(r.reader.fd, unsafe.Pointer(out), length)
	if failed != 0 && length > outHeaderSize {
		// The kernel could not copy it; it must at least not wait.
		*out = fuse.OutHeader{Length: uint32(outHeaderSize), Status: -int32(syscall.EIO), Unique: r.unique}
		gone, _ = send(r.reader.fd, unsafe.Pointer(out), outHeaderSize)
	}
	if gone || failed != 0 {
		r.reader.count.failed.Add(1)
	}
	r.index.close()
	r.reader.control.before.answered()
}
