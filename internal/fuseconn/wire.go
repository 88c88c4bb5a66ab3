package fuseconn

import (
	"syscall"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// Opcodes of <linux/fuse.h>; go-fuse does not export its own.
const (
	opLookup      = 1
	opForget      = 2
	opGetattr     = 3
	opSetattr     = 4
	opSymlink     = 6
	opMknod       = 8
	opMkdir       = 9
	opUnlink      = 10
	opRmdir       = 11
	opRename      = 12
	opLink        = 13
	opOpen        = 14
	opRead        = 15
	opWrite       = 16
	opStatfs      = 17
	opRelease     = 18
	opFsync       = 20
	opFlush       = 25
	opInit        = 26
	opOpendir     = 27
	opReaddir     = 28
	opReleasedir  = 29
	opFsyncdir    = 30
	opAccess      = 34
	opCreate      = 35
	opInterrupt   = 36
	opDestroy     = 38
	opBatchForget = 42
	opFallocate   = 43
	opRename2     = 45
)

const (
	inHeaderSize  = int(unsafe.Sizeof(fuse.InHeader{}))
	outHeaderSize = int(unsafe.Sizeof(fuse.OutHeader{}))
	writeOutSize  = int(unsafe.Sizeof(fuse.WriteOut{}))
	// rwInSize is the head of a WRITE: with it just before a page boundary,
	// the payload starts on one.
	rwInSize = int(unsafe.Sizeof(fuse.WriteIn{}))

	// resent marks the unique id of a request that the kernel sends again.
	resent = uint64(1) << 63

	// notifyResend is FUSE_NOTIFY_RESEND.
	notifyResend = 7
)

// served says whether the tree answers the opcode. The others get ENOSYS
// without asking go-fuse, which would write a line to the log for each.
func served(opcode uint32) bool {
	switch opcode {
	case opInit, // again, if a worker died between saving and answering it
		opLookup, opGetattr, opSetattr, opSymlink, opMknod, opMkdir, opUnlink, opRmdir, opRename,
		opLink, opOpen, opRead, opWrite, opStatfs, opRelease, opFsync, opFlush, opOpendir, opReaddir,
		opReleasedir, opFsyncdir, opAccess, opCreate, opDestroy, opFallocate, opRename2:
		return true
	}
	return false
}

// send writes one reply of n bytes at p. gone: the kernel does not wait for it
// any more, since its request was interrupted or the connection ended.
func send(fd uintptr, p unsafe.Pointer, n int) (gone bool, errno syscall.Errno) {
	for tries := 0; ; tries++ {
		// Raw: the kernel copies and returns, so the scheduler need not know.
		_, _, errno = syscall.RawSyscall(syscall.SYS_WRITE, fd, uintptr(p), uintptr(n))
		switch errno {
		case 0:
			return false, 0
		case syscall.ENOENT, syscall.ENODEV:
			return true, 0
		case syscall.EINTR, syscall.EAGAIN:
			continue
		case syscall.ENOMEM:
			if tries < 100 {
				backoff(tries)
				continue
			}
		}
		return false, errno
	}
}

// backoff sleeps a little after the n-th failure in a row: not at all for the
// first few, then 100 us doubling up to 100 ms.
func backoff(n int) {
	if n < 4 {
		return
	}
	ns := int64(100_000) << min(n-4, 10)
	ts := syscall.NsecToTimespec(ns)
	syscall.Nanosleep(&ts, nil)
}
