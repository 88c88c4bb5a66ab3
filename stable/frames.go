package stable

import (
	"fmt"
	"hash/crc32"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/zramfs/zramfs/internal/invariants"
)

// Frame numbers a frame: one page of raw data in shared memory.
type Frame uint32

// State is where a frame is in its life.
//
//	Free ──Take──► Filling ──Stage──► Staged ──Begin──► Compressing ──End──► Free
//	                  │                 │  ▲               │    │
//	                  └──Give──► Free   │  └────Again──────┘   Leave
//	                                  Leave                     │
//	                                    ▼                       ▼
//	                                Cancelled ──Begin──► Free  Dropped ──End──► Free
//
// A frame's bytes are written while it is Filling and never again before it
// is Free: that is the promise a View of it stands on.
type State uint32

const (
	// Free: nobody's.
	Free State = iota
	// Filling: private to the operation that took it.
	Filling
	// Staged: a slot's word names it; it waits in a queue.
	Staged
	// Compressing: a view of it is out.
	Compressing
	// Cancelled: the slot moved on before anyone compressed it; its queue
	// entry is still out.
	Cancelled
	// Dropped: the slot moved on while it was compressed; the compressor
	// frees it.
	Dropped
)

// Meeting is what a write gets that finds its page in a frame.
type Meeting uint8

const (
	// Proceed: publish the new word; the frame takes care of itself.
	Proceed Meeting = iota
	// MustWait: park until the compressor is done.
	MustWait
	// MustRefuse: EBUSY.
	MustRefuse
)

// Frames is the table of a device's frames.
//
// Invariants: a frame that is Staged, Compressing, Cancelled or Dropped has
// exactly one entry in exactly one queue or is in a compressor's hand. What is
// counted per frame holds no pointer.
type Frames struct {
	mem   []byte          // immutable; frame i at i*PageSize, shared memory
	heads []uint64        // by frame: owner u32 | CRC-32C u32; shared memory, complete before a word names it
	state []atomic.Uint32 // by frame; changes under the slot's lock
	owner []atomic.Uint32 // slot by frame; written while Filling
	stats *Stats          // immutable

	mu   sync.Mutex
	free []Frame // guarded by mu; capacity is the number of frames

	queues []queue // one per stream, immutable slice
}

// queue is a ring of staged frames that one stream compresses.
type queue struct {
	mu   sync.Mutex
	ring []Frame       // guarded by mu; as long as there are frames, so it never fills
	head int           // guarded by mu
	n    int           // guarded by mu
	wake chan struct{} // immutable: there is work
	much chan struct{} // immutable: there is much of it
}

// NewFrames makes a table over mem, a page and a head for each frame. All
// frames are free.
func NewFrames(mem []byte, heads []uint64, streams int, stats *Stats) *Frames {
	n := len(heads)
	f := &Frames{
		mem:    mem,
		heads:  heads,
		state:  make([]atomic.Uint32, n),
		owner:  make([]atomic.Uint32, n),
		stats:  stats,
		free:   make([]Frame, 0, n),
		queues: make([]queue, streams),
	}
	for i := n - 1; i >= 0; i-- {
		f.free = append(f.free, Frame(i))
	}
	for i := range f.queues {
		f.queues[i].ring = make([]Frame, n)
		f.queues[i].wake = make(chan struct{}, 1)
		f.queues[i].much = make(chan struct{}, 1)
	}
	return f
}

// Len is the number of frames.
func (f *Frames) Len() int { return len(f.state) }

// InUse is the number of frames that are not free.
func (f *Frames) InUse() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.state) - len(f.free)
}

// Bytes gives a frame's page, to read.
func (f *Frames) Bytes(fr Frame) []byte {
	off := int(fr) * PageSize
	return f.mem[off : off+PageSize : off+PageSize]
}

// State reads a frame's state.
func (f *Frames) State(fr Frame) State { return State(f.state[fr].Load()) }

// Owner is the slot the frame was taken for.
func (f *Frames) Owner(fr Frame) uint32 { return f.owner[fr].Load() }

// Holds says whether there is such a frame and it is staged for a slot, whose
// lock the caller holds: else a word that names it is damaged.
func (f *Frames) Holds(fr Frame, slot uint32) bool {
	if f == nil || int(fr) >= len(f.state) || f.Owner(fr) != slot {
		return false
	}
	s := f.State(fr)
	return s == Staged || s == Compressing
}

// Sound says whether a frame's bytes are what was staged for its owner. It is
// for whoever keeps the frame alive.
func (f *Frames) Sound(fr Frame) bool {
	owner := f.Owner(fr)
	return atomic.LoadUint64(&f.heads[fr]) == head(owner, f.Bytes(fr))
}

// head ties a page's bytes to their owner.
func head(owner uint32, page []byte) uint64 {
	return uint64(crc32.Update(owner, crc32.MakeTable(crc32.Castagnoli), page))<<32 | uint64(owner)
}

// Take gives a free frame to fill for a slot; false if there is none.
func (f *Frames) Take(slot uint32) (Frame, bool) {
	f.mu.Lock()
	n := len(f.free)
	if n == 0 {
		f.mu.Unlock()
		return 0, false
	}
	fr := f.free[n-1]
	f.free = f.free[:n-1]
	f.mu.Unlock()
	f.move(fr, Free, Filling)
	f.owner[fr].Store(slot)
	return fr, true
}

// Fill writes a page to a frame that was taken, whole and before any word names
// it: nothing in it changes again until it is free.
func (f *Frames) Fill(fr Frame, page []byte) {
	invariants.CrashPoint("frame.begin")
	invariants.Copy("frame.half", f.Bytes(fr), page)
	invariants.CrashPoint("frame.filled")
	atomic.StoreUint64(&f.heads[fr], head(f.Owner(fr), page))
	invariants.CrashPoint("frame.head")
}

// Give takes back a frame that was never staged.
func (f *Frames) Give(fr Frame) {
	f.move(fr, Filling, Free)
	f.release(fr)
}

// Claim takes the frame that a slot's word names, in a table made anew after a
// worker's death; when all are claimed comes WipeFree. False if the frame does
// not exist, is another slot's, or is claimed already.
func (f *Frames) Claim(fr Frame, slot uint32) bool {
	if f == nil || int(fr) >= len(f.state) || f.State(fr) != Free || uint32(f.heads[fr]) != slot {
		return false
	}
	f.move(fr, Free, Filling)
	f.owner[fr].Store(slot)
	return true
}

// WipeFree ends the claims: what is claimed is not free, and frames that nobody
// has are wiped, since the worker that died may have been about to.
func (f *Frames) WipeFree() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.free = slices.DeleteFunc(f.free, func(fr Frame) bool { return f.State(fr) != Free })
	for _, fr := range f.free {
		f.wipe(fr)
	}
}

// release wipes a frame that nobody can reach any more, since swap holds
// secrets, and makes it free for the next page.
func (f *Frames) release(fr Frame) {
	f.wipe(fr)
	f.mu.Lock()
	f.free = append(f.free, fr)
	f.mu.Unlock()
}

// wipe zeroes a frame that no word names.
func (f *Frames) wipe(fr Frame) {
	invariants.CrashPoint("frame.wipe.begin")
	atomic.StoreUint64(&f.heads[fr], 0)
	invariants.CrashPoint("frame.wipe.head")
	invariants.Clear("frame.wipe.half", f.Bytes(fr))
	invariants.CrashPoint("frame.wipe.end")
}

// move changes a frame's state and insists on the one it had.
func (f *Frames) move(fr Frame, from, to State) {
	if !f.state[fr].CompareAndSwap(uint32(from), uint32(to)) {
		panic(fmt.Sprintf("stable: frame %d is in state %d, expected %d on the way to %d",
			fr, f.state[fr].Load(), from, to))
	}
}
