package fuseconn

import (
	"fmt"
	"sync/atomic"
	"unsafe"

	"github.com/zramfs/zramfs/internal/invariants"
)

// Memory is where request buffers lie: a shared region (*shm.Region), so that
// the kernel can copy into them even while this process dies.
type Memory interface {
	Bytes(off, n int64) []byte
	Populate(off, n int64) error
}

// The memory holds, in order:
//
//	buffers of the readers   readers x (1 + Spares), each a head page and Payload bytes
//	control slots            Slots, each slotSize
//	the control reply        a head page and Reply bytes
//
// A head page begins with the index; the head of a request ends where the
// page ends, so that a WRITE's payload starts on the next page; a READ's reply
// header lies right before its data, so one write(2) of contiguous bytes
// answers. Other replies are built in the head page, out of the request's way.
const (
	pageSize  = 4096
	replyAt   = 64                  // in the head page
	requestAt = pageSize - rwInSize // in the head page

	slotSize    = 512
	slotRequest = 64 // in the slot: the index lies before it
	slotMax     = slotSize - slotRequest
)

// Layout is how large the parts of the memory are. All workers of a mount have
// the same: the first one's INIT has promised it to the kernel.
type Layout struct {
	Payload int `json:"payload"` // most bytes of a READ or WRITE, whole pages
	Spares  int `json:"spares"`  // buffers of a reader besides the one it reads into
	Slots   int `json:"slots"`   // control requests that can wait, and one
	Reply   int `json:"reply"`   // most bytes that a directory or attribute read returns at once
	// Ring is that of transport ring, whose memory comes last.
	Ring RingLayout `json:"ring,omitzero"`
}

// Bounds on the number of buffers, so that a machine with many CPUs does not
// lock its memory away.
const (
	maxReaders = 16
	maxBuffers = 64
	maxSpares  = 4

	// smallMachine is below how much memory the buffers are small.
	smallMachine = 1 << 30
	smallPayload = 128 << 10
)

// Plan says on which of the CPUs to put a reader, and how large the buffers
// are on a machine with so many bytes of memory.
func Plan(cpus []int, memory int64) (readers []int, l Layout) {
	if n := len(cpus); n > maxReaders {
		for i := range maxReaders {
			readers = append(readers, cpus[i*n/maxReaders])
		}
	} else {
		readers = cpus
	}
	l = Layout{Payload: MaxWrite, Slots: 512, Reply: 64 << 10}
	if memory < smallMachine {
		l = Layout{Payload: smallPayload, Slots: 64, Reply: 16 << 10}
	}
	l.Spares = max(1, min(maxSpares, maxBuffers/max(len(readers), 1)-1))
	return readers, l
}

// Bounds where requests may wait long: 4 MiB of buffers for a reader, 32 for all.
const (
	patientSpares  = 32
	patientBuffers = 256
)

// Patient gives a layout with more and smaller buffers, for so many readers of a
// disk whose requests may wait long, while others are to pass them.
func (l Layout) Patient(readers int) Layout {
	l.Payload = min(l.Payload, smallPayload)
	l.Spares = max(l.Spares, min(patientSpares, patientBuffers/max(readers, 1)-1))
	return l
}

// MaxBackground is how many background requests the kernel may have open for
// a mount with that many planned loop devices: the queue of one has 128
// requests of up to 1280 KiB, each of which is split into payloads.
func (l Layout) MaxBackground(loops int) int {
	const queue, largest = 128, 1280 << 10
	return min(queue*((largest+l.Payload-1)/l.Payload)*max(loops, 1)+64, 1<<16-1)
}

// Bytes is the size of the memory that a connection needs.
func (l Layout) Bytes(readers int) int64 {
	if n := len(l.Ring.CPUs); n > 0 {
		return l.ring(readers, n)
	}
	return l.classic(readers)
}

// classic is that of the readers and the control thread.
func (l Layout) classic(readers int) int64 {
	return l.buffers(readers) + l.slots() + pageSize + int64(l.Reply)
}

func (l Layout) buffers(readers int) int64 { return int64(readers) * int64(1+l.Spares) * l.buffer() }
func (l Layout) buffer() int64             { return pageSize + int64(l.Payload) }
func (l Layout) slots() int64              { return int64(l.Slots) * slotSize }

// valid refuses what no Plan makes.
func (l Layout) valid() bool {
	return l.Payload >= attributeMax && l.Payload <= MaxWrite && l.Payload%pageSize == 0 &&
		l.Spares >= 1 && l.Slots >= 1 && l.Slots%(pageSize/slotSize) == 0 && l.Reply >= attributeMax
}

// indices yields the index of every buffer and slot.
func (l Layout) indices(mem Memory, readers int, yield func(*index)) {
	for off := int64(0); off < l.buffers(readers); off += l.buffer() {
		yield(indexAt(mem.Bytes(off, pageSize)))
	}
	for i := range int64(l.Slots) {
		yield(indexAt(mem.Bytes(l.buffers(readers)+i*slotSize, slotSize)))
	}
}

// InFlight lists the ids of the requests that were read and not answered, as
// the memory of a dead worker tells it; of RELEASEs that came on /dev/fuse, only
// the one that was being done.
func InFlight(mem Memory, readers int, l Layout) []uint64 {
	var ids []uint64
	l.indices(mem, readers, func(x *index) {
		if x.state.Load() == indexOpen {
			ids = append(ids, x.unique.Load())
		}
	})
	for i := range l.Ring.CPUs {
		v := viewLane(mem, l, readers, i)
		ids = v.open(ids)
	}
	return ids
}

// State of the request in a buffer, as the index tells it.
const (
	indexFree     = 0
	indexOpen     = 1
	indexAnswered = 2
)

// index is the start of a head page or slot: which request lies there and
// whether it has been answered. A later worker reads it.
type index struct {
	unique atomic.Uint64 // without the resent bit
	state  atomic.Uint64
}

func indexAt(b []byte) *index { return (*index)(unsafe.Pointer(unsafe.SliceData(b))) }

// open notes a request that was read.
func (x *index) open(unique uint64) {
	invariants.CrashPoint("conn.open")
	x.unique.Store(unique &^ resent)
	invariants.CrashPoint("conn.open.unique")
	x.state.Store(indexOpen)
	invariants.CrashPoint("conn.opened")
}

// close notes that the request was answered. It panics when it was before:
// whoever answers twice has already lost the buffer to another request.
func (x *index) close() {
	invariants.CrashPoint("conn.close")
	if !x.state.CompareAndSwap(indexOpen, indexAnswered) {
		panic(fmt.Sprintf("fuseconn: request %d answered twice", x.unique.Load()))
	}
	invariants.CrashPoint("conn.closed")
}
