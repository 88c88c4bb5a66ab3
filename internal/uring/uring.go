// Package uring is the least of io_uring(7) that a thread needs which sends
// commands to a driver and waits for them: entries of 128 bytes, one system
// call to submit and wait, and futexes in shared memory.
//
// A Ring belongs to the thread that made it; nobody else calls its methods.
// Nothing allocates after New. It never starts a thread or a goroutine.
package uring

import (
	"errors"
	"fmt"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Operations.
const (
	// OpCommand is IORING_OP_URING_CMD: a command of a driver.
	OpCommand = 46
	// OpFutexWait is IORING_OP_FUTEX_WAIT (Linux 6.7): done when the futex is
	// woken, or at once if it does not hold what was expected.
	OpFutexWait = 51
)

const (
	setupClamp        = 1 << 4
	setupSQE128       = 1 << 10
	setupSingleIssuer = 1 << 12
	setupDeferTaskrun = 1 << 13
	enterGetEvents    = 1
	featureSingleMap  = 1
	offsetEntries     = 0x10000000

	resultSize = 16
)

// Entry is struct io_uring_sqe of 128 bytes.
type Entry struct {
	Op      uint8
	Flags   uint8
	_       uint16
	FD      int32
	Off     uint64
	Addr    uint64
	Len     uint32
	OpFlags uint32
	User    uint64 // comes back with the result
	_       [8]byte
	// Command is what the driver gets, or Addr3 in its first 8 bytes.
	Command [80]byte
}

// The kernel's size.
var _ = [1]struct{}{}[unsafe.Sizeof(Entry{})-128]

// Result is what became of an entry: a number, or an errno below zero.
type Result struct {
	User uint64
	N    int32
	_    uint32
}

// params is struct io_uring_params.
type params struct {
	sqEntries, cqEntries, flags, threadCPU, threadIdle, features, wqFD uint32
	_                                                                  [3]uint32
	sq                                                                 struct {
		head, tail, mask, entries, flags, dropped, array, _ uint32
		_                                                   uint64
	}
	cq struct {
		head, tail, mask, entries, overflow, cqes, flags, _ uint32
		_                                                   uint64
	}
}

// Ring is one io_uring. All of it belongs to the thread that made it.
type Ring struct {
	fd                     int
	rings, entries         []byte // mapped
	sqHead, sqTail         *uint32
	cqHead, cqTail         *uint32
	results                unsafe.Pointer
	sqMask, cqMask, sqSize uint32

	tail   uint32 // of the entries that were filled
	handed uint32 // of those that the kernel has
}

// New makes a ring with room for n entries, and twice as many results, for the
// calling thread.
func New(n uint32) (*Ring, error) {
	var p params
	var errno syscall.Errno
	var fd uintptr
	for _, flags := range []uint32{setupSingleIssuer | setupDeferTaskrun, 0} {
		p = params{flags: setupClamp | setupSQE128 | flags}
		fd, _, errno = syscall.Syscall(unix.SYS_IO_URING_SETUP, uintptr(n), uintptr(unsafe.Pointer(&p)), 0)
		if errno != syscall.EINVAL {
			break // a kernel that does not know a flag says EINVAL
		}
	}
	if errno != 0 {
		return nil, fmt.Errorf("uring: make a ring of %d entries: %w", n, errno)
	}
	r := &Ring{fd: int(fd), sqSize: p.sqEntries}
	if p.sqEntries < n || p.features&featureSingleMap == 0 {
		r.Close()
		return nil, fmt.Errorf("uring: make a ring of %d entries: the kernel gives %d: %w", n, p.sqEntries, errors.ErrUnsupported)
	}
	if err := r.mapAll(&p); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

func (r *Ring) mapAll(p *params) error {
	const access, how = unix.PROT_READ | unix.PROT_WRITE, unix.MAP_SHARED | unix.MAP_POPULATE
	length := max(int(p.sq.array+p.sqEntries*4), int(p.cq.cqes+p.cqEntries*resultSize))
	var err error
	if r.rings, err = unix.Mmap(r.fd, 0, length, access, how); err == nil {
		r.entries, err = unix.Mmap(r.fd, offsetEntries, int(p.sqEntries)*int(unsafe.Sizeof(Entry{})), access, how)
	}
	if err != nil {
		return fmt.Errorf("uring: map a ring: %w", err)
	}
	word := func(off uint32) *uint32 { return (*uint32)(unsafe.Pointer(&r.rings[off])) }
	r.sqHead, r.sqTail, r.sqMask = word(p.sq.head), word(p.sq.tail), *word(p.sq.mask)
	r.cqHead, r.cqTail, r.cqMask = word(p.cq.head), word(p.cq.tail), *word(p.cq.mask)
	r.results = unsafe.Pointer(word(p.cq.cqes))
	for i := range p.sqEntries { // entry i always lies in place i
		*word(p.sq.array + 4*i) = i
	}
	return nil
}

// Close gives the ring back. What is under way is cancelled.
func (r *Ring) Close() {
	for _, m := range [][]byte{r.rings, r.entries} {
		if m != nil {
			_ = unix.Munmap(m) // ours
		}
	}
	_ = unix.Close(r.fd)
}

// Next is the next entry to fill, all zero. There must be room: no more than
// the ring's size are filled between two calls of Enter.
func (r *Ring) Next() *Entry {
	if r.tail-atomic.LoadUint32(r.sqHead) >= r.sqSize {
		panic("uring: more entries than the ring has room for")
	}
	e := (*Entry)(unsafe.Pointer(&r.entries[uintptr(r.tail&r.sqMask)*unsafe.Sizeof(Entry{})]))
	*e = Entry{}
	r.tail++
	return e
}

// Enter hands all filled entries to the kernel and waits until there are so
// many results. A signal, or entries that could not all be taken, end it
// early and are no error: the caller calls again. See Later.
func (r *Ring) Enter(wait uint32) syscall.Errno {
	atomic.StoreUint32(r.sqTail, r.tail)
	n := r.tail - r.handed
	var taken uintptr
	var errno syscall.Errno
	if wait == 0 {
		taken, _, errno = syscall.RawSyscall6(unix.SYS_IO_URING_ENTER, uintptr(r.fd), uintptr(n), 0, enterGetEvents, 0, 0)
	} else {
		// Not RawSyscall: the garbage collector would wait for this thread.
		taken, _, errno = syscall.Syscall6(unix.SYS_IO_URING_ENTER, uintptr(r.fd), uintptr(n), uintptr(wait), enterGetEvents, 0, 0)
	}
	switch errno {
	case 0:
		r.handed += uint32(taken)
	case syscall.EINTR:
		return 0
	}
	return errno
}

// Later says whether an error of Enter passes: the kernel has no memory, or
// results to be taken first. Who calls again at once may take the CPU from
// whoever could help.
func Later(errno syscall.Errno) bool {
	return errno == syscall.EAGAIN || errno == syscall.EBUSY || errno == syscall.ENOMEM
}

// Pending says how many filled entries the kernel has not taken yet.
func (r *Ring) Pending() uint32 { return r.tail - r.handed }

// Reap takes the next result, if there is one.
func (r *Ring) Reap() (res Result, ok bool) {
	head := *r.cqHead // only this thread writes it
	if head == atomic.LoadUint32(r.cqTail) {
		return Result{}, false
	}
	res = *(*Result)(unsafe.Add(r.results, uintptr(head&r.cqMask)*resultSize))
	atomic.StoreUint32(r.cqHead, head+1)
	return res, true
}
