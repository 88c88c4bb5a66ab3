// Package fusefs is the tree of files inside the mount: the disks, and the
// attributes of each device where the kernel has them.
//
//	dev/zramN                                the disk
//	dev/zram0.N                              a segment of disk 0
//	sys/block/zramN/ATTRIBUTE                the kernel's attributes
//	sys/block/zramN/zramfs/ATTRIBUTE         what the kernel does not have
//	sys/class/zram-control/{hot_add,hot_remove}
//	sys/kernel/debug/zsmalloc/zramN/classes
//	sys/kernel/debug/zram/zramN/block_state
//
// Node ids are constants of the path, so that they mean the same to every
// worker. The attribute files are made from one table, blockdev's; this
// package never knows what an attribute means, and keeps no state but what
// belongs to an open file, or to an operation that must not be done twice.
//
// Lock order: Tree.mu → blockdev's. No lock is taken between a disk request and
// blockdev.
package fusefs

import (
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/zramfs/zramfs/blockdev"
	"github.com/zramfs/zramfs/internal/fuseconn"
)

// forever is how long the kernel may remember what never changes.
const forever = 24 * time.Hour

// maxDevices is how many devices the tree has room for.
const maxDevices = 1024

// Tree is the file system, and the Handler of its disks.
type Tree struct {
	fuse.RawFileSystem // answers ENOSYS to what is not implemented here

	set      *blockdev.Set // immutable
	streams  int           // immutable; of each device
	segments int           // immutable; of disk 0, 0: it is whole
	rows     rows          // immutable
	uid      uint32        // immutable; owner of all files
	gid      uint32        // immutable
	born     uint64        // immutable; all times, in seconds

	memory []byte // immutable; the ledger's, nil: nothing is kept
	ledger ledger // empty until Resume; then see there

	// disks are the devices by number, as of their last open, without a lock.
	disks [maxDevices]atomic.Pointer[blockdev.Device]

	mu   sync.Mutex
	open map[uint64]*handle // by file handle; guarded by mu
}

var (
	_ fuse.RawFileSystem = (*Tree)(nil)
	_ fuseconn.Handler   = (*Tree)(nil)
	_ fuseconn.Slow      = (*Tree)(nil)
)

// Options are what a tree is made with.
type Options struct {
	// Ledger is LedgerBytes of memory that outlives this process, all zero at
	// first. nil: what is open and begun is forgotten with the process.
	Ledger   []byte
	Segments int // files that cut disk 0, at most MaxSegments; 0: none
}

// New makes the tree over the devices of set, owned by this process's user.
func New(set *blockdev.Set, o Options) *Tree {
	return &Tree{
		RawFileSystem: fuse.NewDefaultRawFileSystem(),
		set:           set,
		streams:       set.Streams(),
		segments:      min(o.Segments, MaxSegments),
		memory:        o.Ledger,
		rows:          newRows(set.Attributes()),
		uid:           uint32(os.Geteuid()),
		gid:           uint32(os.Getegid()),
		born:          uint64(time.Now().Unix()),
		open:          make(map[uint64]*handle),
	}
}

// String is the name of the file system.
func (t *Tree) String() string { return "zramfs" }

// errnos says which errno each of blockdev's errors is at the edge. The first
// that matches counts.
var errnos = []struct {
	err   error
	errno syscall.Errno
}{
	{blockdev.ErrBacking, syscall.EIO}, // whatever the device said
	{blockdev.ErrBudget, syscall.EIO},
	{blockdev.ErrInvalid, syscall.EINVAL},
	{blockdev.ErrBusy, syscall.EBUSY},
	{blockdev.ErrRefused, syscall.EBUSY},
	{blockdev.ErrNoSpace, syscall.ENOSPC},
	{blockdev.ErrCorrupt, syscall.EIO},
	{blockdev.ErrNotReady, syscall.EIO},
	{blockdev.ErrTooBig, syscall.E2BIG},
	{blockdev.ErrRange, syscall.ERANGE},
	{blockdev.ErrNoDevice, syscall.ENODEV},
	{blockdev.ErrNotBlock, syscall.ENOTBLK},
	{blockdev.ErrUnsupported, syscall.EOPNOTSUPP},
	{blockdev.ErrAgain, syscall.EAGAIN},
	{blockdev.ErrInterrupted, syscall.EINTR},
}

// errnoOf gives an error's errno: that of the sentinel inside it, else of an
// errno inside it, else EIO.
func errnoOf(err error) syscall.Errno {
	if err == nil {
		return 0
	}
	for i := range errnos {
		if errors.Is(err, errnos[i].err) {
			return errnos[i].errno
		}
	}
	var errno syscall.Errno
	if errors.As(err, &errno) && errno > 0 && errno < 512 {
		return errno
	}
	return syscall.EIO
}

func statusOf(err error) fuse.Status { return fuse.Status(errnoOf(err)) }
