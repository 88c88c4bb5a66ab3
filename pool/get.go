package pool

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"sync/atomic"
	"unsafe"
)

// Get views the n bytes stored at a place, after it has found their owner and
// sum to be right; else ErrCorrupt says what is wrong. It takes no lock: the
// bytes stay as they are for as long as the caller keeps others from freeing
// or moving them, by the lock under which it read the place. Any place and
// length may be asked for; what is not committed is not touched.
func (p *Pool) Get(pl Place, owner, seed uint32, n int) ([]byte, error) {
	if !p.geo.stores(n) || uint64(pl) >= uint64(len(p.mem))/granule {
		return nil, fmt.Errorf("pool: get: no place %d of %d bytes: %w", pl, n, ErrCorrupt)
	}
	off := uint64(pl) * granule
	size, head := uint64(n)+HeaderSize, uint64(HeaderSize)
	if n == PageSize {
		size, head = PageSize, 0
	}
	if !p.arena.holds(off, size) || n == PageSize && off%PageSize != 0 {
		return nil, fmt.Errorf("pool: get: place %d of %d bytes is not an object: %w", pl, n, ErrCorrupt)
	}
	data := p.mem[off+head : off+size : off+size]
	header := p.header(off, n)
	if got := uint32(header); got != owner {
		return nil, fmt.Errorf("pool: get: place %d belongs to %d, not %d: %w", pl, got, owner, ErrCorrupt)
	}
	if got := crc32.Update(seed, p.poly, data); got != uint32(header>>32) {
		return nil, fmt.Errorf("pool: get: place %d of %d bytes has sum %#x, not %#x: %w",
			pl, n, got, uint32(header>>32), ErrCorrupt)
	}
	return data, nil
}

// Touch reads a byte of each page that the object of n bytes at a place lies in,
// if that can be one, so that who looks at it under a lock does not fault.
func (p *Pool) Touch(pl Place, n int) {
	off := uint64(pl) * granule
	size := uint64(n) + HeaderSize
	if n == PageSize {
		size = PageSize
	}
	if uint64(pl) >= uint64(len(p.mem))/granule || n <= 0 || n > PageSize || !p.arena.holds(off, size) {
		return
	}
	for _, at := range []uint64{off, off + size - 1} {
		atomic.LoadUint64((*uint64)(unsafe.Pointer(&p.mem[at&^7])))
	}
	if n == PageSize {
		atomic.LoadUint64((*uint64)(unsafe.Pointer(&p.side[off/PageSize*HeaderSize])))
	}
}

// Owner is who the object of n bytes at a place belongs to, as its header says;
// false if there can be none. What is not committed is not touched.
func (p *Pool) Owner(pl Place, n int) (owner uint32, ok bool) {
	off := uint64(pl) * granule
	if !p.geo.stores(n) || uint64(pl) >= uint64(len(p.mem))/granule || !p.arena.holds(off, HeaderSize) {
		return 0, false
	}
	return uint32(p.header(off, n)), true
}

// header is what is kept with the n bytes at byte off of the arena: the owner
// and, above it, the sum.
func (p *Pool) header(off uint64, n int) uint64 {
	if n == PageSize {
		return binary.LittleEndian.Uint64(p.side[off/PageSize*HeaderSize:])
	}
	return binary.LittleEndian.Uint64(p.mem[off:])
}
