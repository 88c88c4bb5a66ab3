package fusefs

import (
	"encoding/binary"
	"fmt"
	"sync/atomic"
	"syscall"
	"unsafe"

	"github.com/zramfs/zramfs/blockdev"
	"github.com/zramfs/zramfs/internal/invariants"
)

// The ledger of a tree lies in memory that outlives a worker:
//
//	0    magic, version, number of handles, number of operations
//	64   open handles of disks and of hot_add
//	...  the last operations with effects
//
// A handle is taken or given back by one atomic store of its key; an operation
// goes from begun to done by one of its state. Whether one that was begun took
// effect, the ledger of the devices knows: it counts its changes, and an
// operation makes one, or none. So the next worker can tell at once, before
// other operations come between.
const (
	ledgerVersion  = 1
	ledgerHandles  = 1024
	ledgerHandleAt = 64
	ledgerHandle   = 32 // bytes
	ledgerOps      = 64
	ledgerOpAt     = ledgerHandleAt + ledgerHandles*ledgerHandle
	ledgerOp       = 64 // bytes

	// LedgerBytes is the size of an Options.Ledger.
	LedgerBytes = ledgerOpAt + ledgerOps*ledgerOp
)

// Format numbers what this package keeps in shared memory: a binary of another
// number cannot take over.
const Format = ledgerVersion

var ledgerMagic = [8]byte{'z', 'r', 'a', 'm', 't', 'r', 'e', 'e'}

// ledger is the shared memory. The zero ledger keeps nothing: the transport
// that has one worker only.
//
// One thread at a time changes it: the control thread, or who holds Tree.mu.
type ledger struct {
	mem []byte
	seq uint64 // of the last operation
}

// open takes up a ledger, or begins one in memory that is all zero.
func (l *ledger) open(mem []byte) error {
	if len(mem) != LedgerBytes {
		return fmt.Errorf("ledger of handles: %d bytes, need %d: %w", len(mem), LedgerBytes, blockdev.ErrInvalid)
	}
	le := binary.LittleEndian
	switch [8]byte(mem) {
	case ledgerMagic:
	case [8]byte{}:
		le.PutUint64(mem[8:], ledgerVersion)
		le.PutUint64(mem[16:], ledgerHandles)
		le.PutUint64(mem[24:], ledgerOps)
		invariants.CrashPoint("tree.begin")
		copy(mem, ledgerMagic[:])
	default:
		return fmt.Errorf("ledger of handles begins with %q, which is not zramfs's: %w", mem[:8], blockdev.ErrCorrupt)
	}
	if v := le.Uint64(mem[8:]); v != ledgerVersion {
		return fmt.Errorf("ledger of handles has format version %d, this binary reads %d: %w",
			v, ledgerVersion, blockdev.ErrUnsupported)
	}
	if h, o := le.Uint64(mem[16:]), le.Uint64(mem[24:]); h != ledgerHandles || o != ledgerOps {
		return fmt.Errorf("ledger of handles has room for %d handles and %d operations, this binary reads %d and %d: %w",
			h, o, ledgerHandles, ledgerOps, blockdev.ErrUnsupported)
	}
	l.mem = mem
	for i := range ledgerOps {
		l.seq = max(l.seq, l.op(i).seq)
	}
	return nil
}

// handleRecord is an open handle. key 0: free.
type handleRecord struct {
	key    atomic.Uint64 // the OPEN's unique id; stored last
	node   uint64
	number uint64 // of hot_add: the number it gave, and one; 0: none yet
	_      uint64
}

func (l *ledger) handle(i int) *handleRecord {
	return (*handleRecord)(unsafe.Pointer(&l.mem[ledgerHandleAt+i*ledgerHandle]))
}

// take records an open handle. nil without an error: nothing is kept.
func (l *ledger) take(key, node uint64) (*handleRecord, error) {
	if l.mem == nil {
		return nil, nil
	}
	for i := range ledgerHandles {
		if r := l.handle(i); r.key.Load() == 0 {
			r.node, r.number = node, 0
			invariants.CrashPoint("tree.handle")
			r.key.Store(key)
			invariants.CrashPoint("tree.open")
			return r, nil
		}
	}
	return nil, fmt.Errorf("%d handles are open: %w", ledgerHandles, syscall.ENFILE)
}

// give gives a handle back; r may be nil.
func (r *handleRecord) give() {
	if r != nil {
		invariants.CrashPoint("tree.release")
		r.key.Store(0)
		invariants.CrashPoint("tree.released")
	}
}

// note keeps the number that hot_add is about to make; r may be nil.
func (r *handleRecord) note(number int) {
	if r != nil {
		r.number = uint64(number) + 1
		invariants.CrashPoint("tree.number")
	}
}

// opRecord is an operation with effects.
type opRecord struct {
	state   atomic.Uint64 // stored last: 0 free, opBegun, or opDone with the errno above it
	unique  uint64        // without the resent bit
	changes uint64        // of the devices' ledger when it began
	n       uint64        // bytes that a write answers with
	fh      uint64        // of a hot_add
	seq     uint64        // counts the operations; the oldest is overwritten
	_       [2]uint64
}

const (
	opBegun    = 1
	opDone     = 2
	errnoShift = 8
)

func (l *ledger) op(i int) *opRecord {
	return (*opRecord)(unsafe.Pointer(&l.mem[ledgerOpAt+i*ledgerOp]))
}

// begin records that an operation starts; nil: nothing is kept.
func (l *ledger) begin(unique, changes uint64, n int, fh uint64) *opRecord {
	if l.mem == nil {
		return nil
	}
	l.seq++
	o := l.op(int(l.seq % ledgerOps))
	o.state.Store(0)
	o.unique, o.changes, o.n, o.fh, o.seq = unique&^resent, changes, uint64(n), fh, l.seq
	invariants.CrashPoint("tree.op")
	o.state.Store(opBegun)
	invariants.CrashPoint("tree.begun")
	return o
}

// end records how an operation ended; o may be nil.
func (o *opRecord) end(errno syscall.Errno) {
	if o != nil {
		invariants.CrashPoint("tree.end")
		o.state.Store(opDone | uint64(errno)<<errnoShift)
		invariants.CrashPoint("tree.done")
	}
}

// done finds an operation that an earlier worker did.
func (l *ledger) done(unique uint64) (n uint32, errno syscall.Errno, ok bool) {
	if l.mem == nil || unique&resent == 0 {
		return 0, 0, false
	}
	for i := range ledgerOps {
		o := l.op(i)
		if s := o.state.Load(); s&0xff == opDone && o.unique == unique&^resent {
			if errno = syscall.Errno(s >> errnoShift); errno == 0 {
				n = uint32(o.n)
			}
			return n, errno, true
		}
	}
	return 0, 0, false
}

// settle decides what became of an operation that was begun when its worker
// died: it took effect, or it never happened. hot_add's handle keeps its
// number only if there is the device.
func (l *ledger) settle(changes uint64) {
	for i := range ledgerOps {
		o := l.op(i)
		if o.state.Load() != opBegun {
			continue
		}
		if o.changes != changes {
			o.end(0)
			continue
		}
		for j := range ledgerHandles {
			if r := l.handle(j); o.fh != 0 && r.key.Load() == o.fh {
				r.number = 0
			}
		}
		invariants.CrashPoint("tree.settle")
		o.state.Store(0)
	}
}
