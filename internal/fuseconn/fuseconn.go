// Package fuseconn is the connection to the kernel: it mounts, answers INIT,
// reads requests, hands those for a disk to a Handler and the rest to a tree
// of files, and writes the replies.
//
// Two transports: PerCPU reads /dev/fuse itself, with one locked, pinned
// thread per CPU on a /dev/fuse file of its own; GoFuse is go-fuse's server
// over fusermount3, for who is not root.
//
// A reader never waits for anything but the kernel's next request: it does not
// allocate, log, or take a lock that another thread may hold across I/O. What
// must wait is parked by the Handler and answered from another thread, and a
// write to an attribute that takes long from a goroutine of its own. The one
// exception: the Handler parks a request in the reader's last buffer; it was
// told so by Request.Last.
//
// There is no lock here, so there is no order. Buffers change hands through
// channels that are large enough never to block a sender.
//
// This package never knows blocks, attributes, or what a node is.
package fuseconn

import (
	"errors"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// MaxWrite is the largest payload of one READ or WRITE in bytes, of any Layout.
const MaxWrite = 1 << 20

// MaxBackground is Layout.MaxBackground with the largest payload.
func MaxBackground(loops int) int { return Layout{Payload: MaxWrite}.MaxBackground(loops) }

// Sentinel errors.
var (
	// ErrNoAsyncDIO: without FUSE_ASYNC_DIO each loop device runs at depth 1.
	ErrNoAsyncDIO = errors.New("kernel offers no asynchronous direct I/O over FUSE")
	// ErrClosed: the connection ended before INIT.
	ErrClosed = errors.New("connection is closed")
	// ErrProtocol: the kernel sent what was not expected.
	ErrProtocol = errors.New("unexpected FUSE message")
)

// Op is what a Request asks of a disk.
type Op uint8

const (
	// Read fills Data from Offset.
	Read Op = iota
	// Write stores Data at Offset.
	Write
	// Allocate is fallocate(2) with Mode over Offset and Length.
	Allocate
	// Sync is fsync(2).
	Sync
)

// Handler serves the disks. Its methods are called from all readers at once.
type Handler interface {
	// IsDisk says whether READ, WRITE, FALLOCATE and FSYNC of the node go to
	// Serve. It must be pure arithmetic.
	IsDisk(node uint64) bool
	// Attach is called once for each Request that exists, before it is used;
	// the Handler may hang on r.Context what it needs to serve it.
	Attach(r *Request)
	// Serve does a request. Either it answers at once: n bytes done (of Read and
	// Write), or an errno; or it says parked, keeps r, and calls r.Reply once,
	// from any thread, even before Serve returns.
	//
	// With r.Last set the reader has no other buffer: parking it stops the
	// reader. A write that would have to wait is then answered with ENOSPC; a
	// read may be parked, since nothing else can be done for it.
	Serve(r *Request) (n int, parked bool, errno syscall.Errno)
}

// Conn is a transport with a mounted file system behind it.
type Conn interface {
	// Serve answers requests until the file system is unmounted or aborted,
	// and all parked requests are answered.
	Serve() error
	// Transport is the transport's name.
	Transport() string
	// Negotiated is what INIT agreed on.
	Negotiated() Negotiated
	// Stats reads the counters.
	Stats() Stats
}

// Config is what both transports need.
type Config struct {
	Handler Handler
	// Tree answers every request that is not for a disk.
	Tree fuse.RawFileSystem
	// MaxBackground bounds the background requests in flight.
	MaxBackground int
	// AllowOther is as in MountOptions; it changes nothing of the protocol.
	AllowOther bool
}

// Negotiated is the outcome of INIT.
type Negotiated struct {
	Minor         uint32 // of the protocol that is spoken
	Flags         uint64 // both sides have them
	MaxWrite      int    // bytes
	MaxBackground int    // requests
	Resend        bool   // the kernel knows FUSE_NOTIFY_RESEND
}

// ReaderStats counts what one reader did.
type ReaderStats struct {
	CPU      int    `json:"cpu"` // -1: not pinned
	Requests uint64 `json:"requests"`
	Reads    uint64 `json:"reads"`
	Writes   uint64 `json:"writes"`
	Control  uint64 `json:"control"`  // handed to the control thread
	Parked   uint64 `json:"parked"`   // answered later
	Last     uint64 `json:"last"`     // served from the last buffer
	Waits    uint64 `json:"waits"`    // parked in the last buffer: the reader stood still
	Refused  uint64 `json:"refused"`  // control requests refused for want of a buffer
	Survived uint64 `json:"survived"` // errors of read(2) that were not the end
	Failed   uint64 `json:"failed"`   // replies that the kernel did not take
	Resent   uint64 `json:"resent"`   // that an earlier worker had seen, too
	Poisoned uint64 `json:"poisoned"` // of these, refused with EIO: they have killed
	Alone    uint64 `json:"alone"`    // times that it became the only one that waits for requests
	Watched  uint64 `json:"watched"`  // requests that came while it looked for them, awake
}

// Stats counts what a connection did.
type Stats struct {
	Readers  []ReaderStats `json:"readers"`
	Resent   uint64        `json:"resent"`   // sums over the readers
	Poisoned uint64        `json:"poisoned"` //
	// FirstAnswer is when the first request was answered, CLOCK_MONOTONIC in
	// nanoseconds; 0: none was.
	FirstAnswer int64 `json:"first_answer,omitempty"`
	// Unpinned says why a reader could not be pinned, if one could not.
	Unpinned string `json:"unpinned,omitempty"`
}

// mountOptions is what go-fuse is told, whichever transport.
func (c *Config) mountOptions(maxWrite int) *fuse.MountOptions {
	o := &fuse.MountOptions{
		FsName:              fsName,
		Name:                fsName,
		AllowOther:          c.AllowOther,
		MaxWrite:            maxWrite,
		MaxBackground:       c.MaxBackground,
		CongestionThreshold: c.MaxBackground,
		ExtraCapabilities:   fuse.CAP_ASYNC_DIO,
		// Passthrough would count as a stacked file system; nothing here may
		// be opened without the server knowing.
		DisabledCapabilities: fuse.CAP_PASSTHROUGH | fuse.CAP_NO_OPEN_SUPPORT,
		DisableXAttrs:        true,
		DisableReadDirPlus:   true,
		DisableSplice:        true,
	}
	if c.AllowOther {
		o.Options = append(o.Options, defaultPermissions)
	}
	return o
}
