// Package swapload puts memory under pressure with pages that look like a
// program's memory, and proves that each of them comes back unharmed.
//
// A page says who it is: its index, its generation and a checksum stand in its
// first 16 bytes. What the generation should be is kept apart, in locked
// memory, so a page that comes back whole but old is found as well.
//
// Nothing here allocates once a run has begun: the measured memory is the only
// memory that grows.
package swapload

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"golang.org/x/sys/unix"
)

// PageSize is the length of a page in bytes.
const PageSize = 4096

// stampSize is what a stamp takes of a page: index (8 bytes), generation (4),
// CRC-32C of everything else (4).
const stampSize = 16

// stride spreads the generations of one page over the corpus. It is a prime
// larger than a run of neighbouring pages.
const stride = 977

// Kind is what was wrong with a page.
type Kind uint8

// In the order in which they are looked for.
const (
	Whole      Kind = iota // nothing wrong
	Unreadable             // touching it was answered with SIGBUS
	Torn                   // its checksum does not fit its bytes
	Misplaced              // another page's bytes
	Stale                  // an earlier generation of itself
)

// String names the kind as a report does.
func (k Kind) String() string {
	switch k {
	case Whole:
		return "whole"
	case Unreadable:
		return "unreadable"
	case Torn:
		return "torn"
	case Misplaced:
		return "misplaced"
	case Stale:
		return "stale"
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// Base holds the pages that a load is made of, in locked memory of its own.
// Immutable after NewBase.
type Base struct {
	bytes []byte
	pages int
	crc   *crc32.Table
}

// NewBase copies pages (each PageSize long) out of the Go heap. A Base that
// cannot be locked works too, and Locked is false: its own page faults then
// belong to what is measured.
func NewBase(pages [][]byte) (b *Base, locked bool, err error) {
	if len(pages) == 0 {
		return nil, false, fmt.Errorf("swapload: no pages to load with")
	}
	mem, err := mapMemory(len(pages) * PageSize)
	if err != nil {
		return nil, false, err
	}
	for i, p := range pages {
		if len(p) != PageSize {
			return nil, false, fmt.Errorf("swapload: page %d of the corpus has %d bytes, want %d", i, len(p), PageSize)
		}
		copy(mem[i*PageSize:], p)
	}
	locked = unix.Mlock(mem) == nil
	return &Base{bytes: mem, pages: len(pages), crc: crc32.MakeTable(crc32.Castagnoli)}, locked, nil
}

// Fill writes generation gen of page index to dst, PageSize bytes. With gen 0
// a run of indexes repeats the corpus in its own order.
func (b *Base) Fill(dst []byte, index uint64, gen uint32) {
	from := int((index + uint64(gen)*stride) % uint64(b.pages))
	copy(dst[:PageSize], b.bytes[from*PageSize:(from+1)*PageSize])
	binary.LittleEndian.PutUint64(dst, index)
	binary.LittleEndian.PutUint32(dst[8:], gen)
	binary.LittleEndian.PutUint32(dst[12:], b.sum(dst))
}

// Check says what is wrong with a page that should be generation gen of page
// index.
func (b *Base) Check(page []byte, index uint64, gen uint32) Kind {
	switch {
	case binary.LittleEndian.Uint32(page[12:]) != b.sum(page):
		return Torn
	case binary.LittleEndian.Uint64(page) != index:
		return Misplaced
	case binary.LittleEndian.Uint32(page[8:]) != gen:
		return Stale
	}
	return Whole
}

func (b *Base) sum(page []byte) uint32 {
	return crc32.Update(crc32.Update(0, b.crc, page[:12]), b.crc, page[stampSize:PageSize])
}

// mapMemory maps n bytes of private anonymous memory, without huge pages:
// these would be split before they are swapped, and hide what is measured.
func mapMemory(n int) ([]byte, error) {
	mem, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("swapload: map %d bytes: %w", n, err)
	}
	// EINVAL means a kernel built without huge pages, which is as good.
	if err := unix.Madvise(mem, unix.MADV_NOHUGEPAGE); err != nil && err != unix.EINVAL {
		return nil, fmt.Errorf("swapload: no huge pages: %w", err)
	}
	return mem, nil
}
