package integration

import (
	"os"
	"sync/atomic"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// uring is an io_uring that only writes, as small as it can be: see
// io_uring(7). One goroutine uses it.
type uring struct {
	fd              int
	ring, entries   []byte // mapped: both rings; submission entries
	sqTail, sqMask  *uint32
	cqHead, cqTail  *uint32
	cqMask          *uint32
	sqArray, cqBase unsafe.Pointer
}

// uringParams is struct io_uring_params.
type uringParams struct {
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

// uringEntry is the beginning of struct io_uring_sqe.
type uringEntry struct {
	op, flags  uint8
	priority   uint16
	fd         int32
	off, addr  uint64
	length, rw uint32
	user       uint64
	_, _       uint64
	_          uint64
}

// uringResult is struct io_uring_cqe.
type uringResult struct {
	user  uint64
	res   int32
	flags uint32
}

const (
	uringOpWrite      = 23
	uringSingleMap    = 1
	uringOffEntries   = 0x10000000
	uringGetEvents    = 1
	uringSizeOfEntry  = 64
	uringSizeOfResult = 16
)

// newURing makes a ring of n entries, a power of two.
func newURing(t *testing.T, n uint32) *uring {
	t.Helper()
	var p uringParams
	fd, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, uintptr(n), uintptr(unsafe.Pointer(&p)), 0)
	if errno != 0 {
		t.Skipf("needs io_uring: %v", errno)
	}
	u := &uring{fd: int(fd)}
	t.Cleanup(u.close)
	if p.features&uringSingleMap == 0 {
		t.Skip("needs an io_uring that is mapped at once (Linux 5.4)")
	}
	length := max(int(p.sq.array+p.sqEntries*4), int(p.cq.cqes+p.cqEntries*uringSizeOfResult))
	var err error
	if u.ring, err = unix.Mmap(u.fd, 0, length, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE); err != nil {
		t.Fatal(err)
	}
	u.entries, err = unix.Mmap(u.fd, uringOffEntries, int(p.sqEntries)*uringSizeOfEntry,
		unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		t.Fatal(err)
	}
	word := func(off uint32) *uint32 { return (*uint32)(unsafe.Pointer(&u.ring[off])) }
	u.sqTail, u.sqMask, u.sqArray = word(p.sq.tail), word(p.sq.mask), unsafe.Pointer(word(p.sq.array))
	u.cqHead, u.cqTail, u.cqMask, u.cqBase = word(p.cq.head), word(p.cq.tail), word(p.cq.mask), unsafe.Pointer(word(p.cq.cqes))
	return u
}

func (u *uring) close() {
	for _, m := range [][]byte{u.ring, u.entries} {
		if m != nil {
			_ = unix.Munmap(m)
		}
	}
	_ = unix.Close(u.fd)
}

// write puts a write of b in the ring. The memory is not Go's, so nothing
// needs to keep it alive.
func (u *uring) write(f *os.File, off int64, b []byte) {
	tail := atomic.LoadUint32(u.sqTail)
	i := tail & *u.sqMask
	*(*uringEntry)(unsafe.Pointer(&u.entries[i*uringSizeOfEntry])) = uringEntry{
		op: uringOpWrite, fd: int32(f.Fd()), off: uint64(off),
		addr: uint64(uintptr(unsafe.Pointer(&b[0]))), length: uint32(len(b)), user: uint64(len(b)),
	}
	*(*uint32)(unsafe.Add(u.sqArray, i*4)) = i
	atomic.StoreUint32(u.sqTail, tail+1)
}

// submit hands n writes over and waits until all are done; done is told each
// one's length and error.
func (u *uring) submit(n int, done func(want int, got int, err error)) error {
	for handed, finished := 0, 0; finished < n; {
		r, _, errno := unix.Syscall6(unix.SYS_IO_URING_ENTER, uintptr(u.fd), uintptr(n-handed), 1, uringGetEvents, 0, 0)
		if errno != 0 && errno != unix.EINTR {
			return errno
		}
		if errno == 0 {
			handed += int(r)
		}
		head := *u.cqHead
		for ; head != atomic.LoadUint32(u.cqTail); head++ {
			c := (*uringResult)(unsafe.Add(u.cqBase, (head&*u.cqMask)*uringSizeOfResult))
			var err error
			if c.res < 0 {
				err = syscall.Errno(-c.res)
			}
			done(int(c.user), int(max(0, c.res)), err)
			finished++
		}
		atomic.StoreUint32(u.cqHead, head)
	}
	return nil
}
