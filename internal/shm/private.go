package shm

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Private is memory of this process alone, off the Go heap: for tables that
// are derived from a region and made anew by the next process. It is reserved
// whole, zero, and takes memory only where it is touched or populated.
type Private struct {
	mem []byte // immutable until Close
}

// NewPrivate reserves size bytes, rounded up to whole pages.
func NewPrivate(size int64) (*Private, error) {
	size = (size + PageSize - 1) &^ (PageSize - 1)
	mem, err := unix.Mmap(-1, 0, int(size), unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("shm: reserve %d private bytes: %w", size, err)
	}
	// A huge page under a sparse table would be memory that nobody asked for.
	err = unix.Madvise(mem, unix.MADV_NOHUGEPAGE)
	if err != nil && !errors.Is(err, unix.EINVAL) { // EINVAL: a kernel without huge pages
		return nil, errors.Join(fmt.Errorf("shm: reserve private bytes: madvise: %w", err), unix.Munmap(mem))
	}
	return &Private{mem: mem}, nil
}

// Base is the address of the first byte.
func (p *Private) Base() unsafe.Pointer { return unsafe.Pointer(unsafe.SliceData(p.mem)) }

// Size is the length in bytes.
func (p *Private) Size() int64 { return int64(len(p.mem)) }

// Populate commits the pages that overlap a range, so that using them does not
// fault. Their content stays.
func (p *Private) Populate(off, n int64) error {
	from := off &^ (PageSize - 1)
	to := min((off+n+PageSize-1)&^(PageSize-1), p.Size())
	if err := populate(p.mem[from:to]); err != nil {
		return fmt.Errorf("shm: populate private [%d, +%d): %w", off, n, err)
	}
	return nil
}

// Clear zeroes everything and gives the memory back.
func (p *Private) Clear() error {
	// Plain MADV_DONTNEED is refused where memory is locked, which it stays.
	err := unix.Madvise(p.mem, unix.MADV_DONTNEED_LOCKED)
	if errors.Is(err, unix.EINVAL) { // Linux < 5.18
		err = unix.Madvise(p.mem, unix.MADV_DONTNEED)
	}
	if err != nil {
		return fmt.Errorf("shm: clear private memory: %w", err)
	}
	return nil
}

// Close gives the memory back.
func (p *Private) Close() error {
	err := unix.Munmap(p.mem)
	p.mem = nil
	if err != nil {
		return fmt.Errorf("shm: close private memory: %w", err)
	}
	return nil
}
