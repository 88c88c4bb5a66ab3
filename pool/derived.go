package pool

import (
	"fmt"
	"unsafe"

	"github.com/zramfs/zramfs/internal/invariants"
	"github.com/zramfs/zramfs/internal/shm"
)

// derived is a slice of descriptors, zero at first, that takes memory only
// where it is touched or populated.
//
// It lies in shared memory if there is some. What it says means nothing to the
// next generation, which clears it; but the pages are there then. That one
// starts when the machine may have none to give, and waits for us to swap.
type derived[T any] struct {
	all     []T
	shared  Memory       // nil: it is this process's memory
	off     int64        // where it lies in shared
	private *shm.Private // nil: shared memory, or the Go heap
}

// derivedBytes is the size of n descriptors in whole pages.
func derivedBytes[T any](n int64) int64 {
	return (n*int64(unsafe.Sizeof(*new(T))) + PageSize - 1) &^ (PageSize - 1)
}

// onHeap: builds with checks keep what is small enough on the Go heap, where
// the race detector sees it.
func onHeap(size int64) bool { return invariants.Enabled && size <= 64<<20 }

func newDerived[T any](n int64, shared Memory, off int64) (*derived[T], error) {
	size := derivedBytes[T](n)
	d := &derived[T]{}
	switch {
	case onHeap(size):
		d.all = make([]T, n)
		return d, nil
	case shared != nil:
		d.shared, d.off = shared, off
		d.all = unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(shared.Bytes(off, size)))), n)
		return d, nil
	}
	var err error
	if d.private, err = shm.NewPrivate(size); err != nil {
		return nil, fmt.Errorf("%d descriptors: %w", n, err)
	}
	d.all = unsafe.Slice((*T)(d.private.Base()), n)
	return d, nil
}

// populate commits n descriptors from first on.
func (d *derived[T]) populate(first, n int64) error {
	size := int64(unsafe.Sizeof(*new(T)))
	from, to := first*size, (first+n)*size
	switch {
	case d.private != nil:
		return d.private.Populate(from, to-from)
	case d.shared != nil:
		from, to = from&^(PageSize-1), (to+PageSize-1)&^(PageSize-1)
		return d.shared.Populate(d.off+from, to-from)
	}
	return nil
}

// zero clears all; shared memory keeps its pages.
func (d *derived[T]) zero() error {
	switch {
	case d.private != nil:
		return d.private.Clear()
	case d.shared != nil:
		return d.each(func(off, n int64) error { clear(d.shared.Bytes(off, n)); return nil })
	}
	clear(d.all)
	return nil
}

// empty clears all and gives the memory back.
func (d *derived[T]) empty() error {
	if d.shared != nil {
		return d.each(d.shared.Punch)
	}
	return d.zero()
}

// each does something to the pages that exist.
func (d *derived[T]) each(do func(off, n int64) error) error {
	end := d.off + derivedBytes[T](int64(len(d.all)))
	var failed error
	err := d.shared.Data(func(off, n int64) bool {
		from, to := max(off, d.off), min(off+n, end)
		if from < to {
			failed = do(from, to-from)
		}
		return failed == nil && to < end
	})
	if failed != nil {
		err = failed
	}
	return err
}

func (d *derived[T]) close() error {
	if d.private == nil {
		return nil
	}
	return d.private.Close()
}

// ScratchBytes is the length of the memory for what describes an arena.
func ScratchBytes(arena int64) int64 {
	pages := arena / PageSize
	return derivedBytes[run](pages) + derivedBytes[uint64](pages*wordsByPage) + derivedBytes[chunk](pages/chunkPages)
}
