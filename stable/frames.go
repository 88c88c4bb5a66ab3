package stable

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
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
	state []atomic.Uint32 // by frame; changes under the slot's lock
	owner []uint64        // slot by frame; written while Filling
	stats *Stats          // immutable

	mu   sync.Mutex
	free []Frame // guarded by mu; capacity is the number of frames

	queues []queue // one per stream, immutable slice
}

// queue is a ring of staged frames that one stream compresses.
type queue struct {
	mu   sync.Mutex
	ring []Frame // guarded by mu; as long as there are frames, so it never fills
	head int     // guarded by mu
	n    int     // guarded by mu
	wake chan struct{}
}

// NewFrames makes a table over mem, whose length is a multiple of PageSize.
// All frames are free.
func NewFrames(mem []byte, streams int, stats *Stats) *Frames {
	n := len(mem) / PageSize
	f := &Frames{
		mem:    mem,
		state:  make([]atomic.Uint32, n),
		owner:  make([]uint64, n),
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

// Bytes gives a frame's page. Only the operation that took it may write, and
// only until Stage.
func (f *Frames) Bytes(fr Frame) []byte {
	off := int(fr) * PageSize
	return f.mem[off : off+PageSize : off+PageSize]
}

// State reads a frame's state.
func (f *Frames) State(fr Frame) State { return State(f.state[fr].Load()) }

// Owner is the slot the frame was taken for.
func (f *Frames) Owner(fr Frame) uint64 { return f.owner[fr] }

// Take gives a free frame to fill for a slot; false if there is none.
func (f *Frames) Take(slot uint64) (Frame, bool) {
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
	f.owner[fr] = slot
	return fr, true
}

// Give takes back a frame that was never staged.
func (f *Frames) Give(fr Frame) {
	f.move(fr, Filling, Free)
	f.release(fr)
}

// Claim takes the frame that a slot's word names, in a table made anew after a
// worker's death; when all are claimed comes WipeFree. False if the frame does
// not exist or is claimed already.
func (f *Frames) Claim(fr Frame, slot uint64) bool {
	if int(fr) >= len(f.state) || f.State(fr) != Free {
		return false
	}
	f.move(fr, Free, Filling)
	f.owner[fr] = slot
	return true
}

// WipeFree ends the claims: what is claimed is not free, and frames that nobody
// has are wiped, since the worker that died may have been about to.
func (f *Frames) WipeFree() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.free = slices.DeleteFunc(f.free, func(fr Frame) bool { return f.State(fr) != Free })
	for _, fr := range f.free {
		clear(f.Bytes(fr))
	}
}

// release wipes a frame that nobody can reach any more, since swap holds
// secrets, and makes it free for the next page.
func (f *Frames) release(fr Frame) {
	clear(f.Bytes(fr))
	f.mu.Lock()
	f.free = append(f.free, fr)
	f.mu.Unlock()
}

// move changes a frame's state and insists on the one it had.
func (f *Frames) move(fr Frame, from, to State) {
	if !f.state[fr].CompareAndSwap(uint32(from), uint32(to)) {
		panic(fmt.Sprintf("stable: frame %d is in state %d, expected %d on the way to %d",
			fr, f.state[fr].Load(), from, to))
	}
}
