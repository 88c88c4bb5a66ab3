// Package stable decides who may change a page now, and which bytes are
// promised not to change.
//
// The bug it exists for: zram compressed a page that its owner could still
// write to; the second compression came out larger than the buffer that the
// first had sized, and the copy destroyed the allocator's free list (Linux
// commit f05714293a59, "mm: support anonymous stable page"). The kernel's cure
// was that the owner of a page under writeback does not get to reuse it: it
// gets a copy. Here a staged frame is such a page, and Policy says what its
// owner gets.
//
// A View is the only thing that may be compressed. There are two ways to one:
// Borrow, for bytes that are private to the calling operation, and
// Frames.Begin, for a staged frame that nobody writes to again.
//
// Locks: a frame's state changes under the lock of the slot that it is staged
// for (the caller's); the free list and each queue have a leaf mutex of their
// own. The package never compresses, never stores, never waits.
package stable

import (
	"fmt"
	"hash/crc32"
	"strings"
	"sync/atomic"

	"github.com/zramfs/zramfs/internal/invariants"
	"github.com/zramfs/zramfs/internal/percpu"
)

// PageSize is the size of a page in bytes, the only one zramfs knows.
const PageSize = 4096

// Policy is what a write gets when it meets a page that is being compressed.
type Policy uint32

const (
	// Snapshot gives the write a frame of its own; the compressor finds the
	// slot's word changed and drops its result. The kernel's counterpart is
	// reuse_swap_page saying no: the owner copies.
	Snapshot Policy = iota
	// Wait parks the write until the compressor is done, as
	// folio_wait_stable does.
	Wait
	// Refuse answers EBUSY at once and changes nothing; for callers that
	// retry, which a loop device does not.
	Refuse
)

// Policies lists the names in the order of their values.
func Policies() []string { return []string{"snapshot", "wait", "refuse"} }

// String gives the policy's name.
func (p Policy) String() string {
	if names := Policies(); int(p) < len(names) {
		return names[p]
	}
	return fmt.Sprintf("policy(%d)", uint32(p))
}

// ParsePolicy reads a policy's name.
func ParsePolicy(s string) (Policy, error) {
	for i, name := range Policies() {
		if s == name {
			return Policy(i), nil
		}
	}
	return 0, fmt.Errorf("unknown stable policy %q: use one of %s", s, strings.Join(Policies(), ", "))
}

// Stats counts what the promise cost and whether it held. All fields are
// counters since the device was initialised, safe for concurrent use.
type Stats struct {
	Overwritten percpu.Counter // staged pages replaced before anyone compressed them
	Snapshots   percpu.Counter // writes that met a page under compression and got a frame of their own
	Waits       percpu.Counter // writes that were parked until the compressor was done
	Refusals    percpu.Counter // writes that got EBUSY
	Dropped     percpu.Counter // results thrown away because the page had moved on
	Audited     percpu.Counter // views hashed at Borrow and again at Release
	Caught      percpu.Counter // views whose bytes changed while promised: must stay 0

	every   atomic.Uint32 // audit one view in this many; 0: none
	borrows atomic.Uint32 // views seen since the last audited one
}

// AuditEvery makes one view in n audited; 0 turns auditing off. Builds with
// the invariants tag audit every view whatever n says.
func (s *Stats) AuditEvery(n uint32) { s.every.Store(n) }

// AuditRate is what AuditEvery set.
func (s *Stats) AuditRate() uint32 { return s.every.Load() }

// audits says whether the view that is about to be made is to be audited.
func (s *Stats) audits() bool {
	if invariants.Enabled {
		return true
	}
	n := s.every.Load()
	return n != 0 && s.borrows.Add(1)%n == 0
}

func castagnoli(page []byte) uint32 {
	return crc32.Update(0, crc32.MakeTable(crc32.Castagnoli), page)
}
