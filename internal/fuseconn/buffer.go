package fuseconn

import (
	"fmt"
	"sync/atomic"
	"unsafe"
)

// Memory is where request buffers lie: a shared region (*shm.Region), so that
// the kernel can copy into them even while this process dies.
type Memory interface {
	Bytes(off, n int64) []byte
	Populate(off, n int64) error
}

// The layout of the memory, in order:
//
//	buffers of the readers   readers x (1 + spares), each a head page and MaxWrite of payload
//	control slots            controlSlots, each slotSize
//	the control reply        a head page and controlReply bytes
//
// A head page begins with the index; the head of a request ends where the
// page ends, so that a WRITE's payload starts on the next page; a READ's reply
// header lies right before its data, so one write(2) of contiguous bytes
// answers. Other replies are built in the head page, out of the request's way.
const (
	pageSize   = 4096
	bufferSize = pageSize + MaxWrite
	replyAt    = 64                  // in the head page
	requestAt  = pageSize - rwInSize // in the head page

	controlSlots = 512
	slotSize     = 512
	slotRequest  = 64 // in the slot: the index lies before it
	slotMax      = slotSize - slotRequest

	// controlReply bounds what a directory or attribute read returns at once.
	controlReply = 64 << 10
)

// Bounds on the number of buffers, so that a machine with many CPUs does not
// lock its memory away.
const (
	maxReaders = 16
	maxBuffers = 64
	maxSpares  = 4
)

// Plan says on which of the CPUs to put a reader, and how many spare buffers
// to give each.
func Plan(cpus []int) (readers []int, spares int) {
	if n := len(cpus); n > maxReaders {
		for i := range maxReaders {
			readers = append(readers, cpus[i*n/maxReaders])
		}
	} else {
		readers = cpus
	}
	return readers, max(1, min(maxSpares, maxBuffers/max(len(readers), 1)-1))
}

// BufferBytes is the size of the memory that a PerCPU connection needs.
func BufferBytes(readers, spares int) int64 {
	return int64(readers)*int64(1+spares)*bufferSize + controlSlots*slotSize + pageSize + controlReply
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
	x.unique.Store(unique &^ resent)
	x.state.Store(indexOpen)
}

// close notes that the request was answered. It panics when it was before:
// whoever answers twice has already lost the buffer to another request.
func (x *index) close() {
	if !x.state.CompareAndSwap(indexOpen, indexAnswered) {
		panic(fmt.Sprintf("fuseconn: request %d answered twice", x.unique.Load()))
	}
}
