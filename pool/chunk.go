package pool

import (
	"math/bits"
	"sync/atomic"
)

const (
	// ChunkSize is the unit of commitment in bytes. No zspage crosses chunks.
	ChunkSize = 2 << 20

	chunkPages = ChunkSize / PageSize
	chunkWords = chunkPages / 64
	groupPages = 8 // a group is 8 pages, aligned: room for a zspage of any class
)

// pageMap has a bit per page of a chunk.
type pageMap [chunkWords]uint64

// chunk is what is known of 2 MiB of the arena; the arena's mutex guards it.
// The zero chunk is void.
type chunk struct {
	committed pageMap // changed by atomic stores: readers look without the lock
	used      pageMap // part of committed
	tally     tally
	side      bool // the side array's page of this chunk is committed
}

// tally sums up a chunk's maps, for the arena's sets and sums.
type tally struct {
	committed uint16 // pages
	free      uint16 // pages committed, not used
	solid     uint8  // groups of which every page is free
	shut      uint8  // groups that are solid or have a used page
	fit       uint8  // longest stretch of free pages, at most MaxChain
}

// ragged is the number of free pages outside solid groups.
func (t *tally) ragged() uint16 { return t.free - uint16(t.solid)*groupPages }

func (c *chunk) count() tally {
	var t tally
	free := c.free()
	for w := range free {
		solid := groups(free[w])
		t.committed += uint16(bits.OnesCount64(c.committed[w]))
		t.free += uint16(bits.OnesCount64(free[w]))
		t.solid += uint8(bits.OnesCount64(solid))
		t.shut += uint8(8 - bits.OnesCount64(groups(^c.used[w])) + bits.OnesCount64(solid))
	}
	if t.fit = MaxChain; t.solid == 0 {
		t.fit = uint8(free.longest())
	}
	return t
}

func (c *chunk) free() pageMap {
	var m pageMap
	for w := range m {
		m[w] = c.committed[w] &^ c.used[w]
	}
	return m
}

func (c *chunk) void() pageMap {
	var m pageMap
	for w := range m {
		m[w] = ^c.committed[w]
	}
	return m
}

// commit and decommit change the state of the pages in m.
func (c *chunk) commit(m *pageMap) {
	for w := range m {
		atomic.StoreUint64(&c.committed[w], c.committed[w]|m[w])
	}
}

func (c *chunk) decommit(m *pageMap) {
	for w := range m {
		atomic.StoreUint64(&c.committed[w], c.committed[w]&^m[w])
	}
}

// holds says without a lock whether a page is committed.
func (c *chunk) holds(page uint32) bool {
	return atomic.LoadUint64(&c.committed[page%chunkPages/64])>>(page%64)&1 != 0
}

// groups marks the lowest bit of each byte of w that is all ones.
func groups(w uint64) uint64 {
	w &= w >> 1
	w &= w >> 2
	w &= w >> 4
	return w & 0x0101010101010101
}

// spread makes a mark in the lowest bit of a byte fill the byte.
func spread(marks uint64) uint64 { return marks * 0xff }

// setSpan sets n bits from bit i.
func (m *pageMap) setSpan(i, n uint32) {
	for ; n > 0; i, n = i+1, n-1 {
		m[i/64] |= 1 << (i % 64)
	}
}

func (m *pageMap) clearSpan(i, n uint32) {
	for ; n > 0; i, n = i+1, n-1 {
		m[i/64] &^= 1 << (i % 64)
	}
}

func (m *pageMap) has(i uint32) bool { return m[i/64]>>(i%64)&1 != 0 }

func (m *pageMap) empty() bool {
	var any uint64
	for _, w := range m {
		any |= w
	}
	return any == 0
}

func (m *pageMap) len() int {
	n := 0
	for _, w := range m {
		n += bits.OnesCount64(w)
	}
	return n
}

// narrow keeps the bits that are followed by another of m k bits on.
func (m *pageMap) narrow(by *pageMap, k uint) {
	for w := range m {
		x := by[w] >> k
		if w+1 < chunkWords {
			x |= by[w+1] << (64 - k)
		}
		m[w] &= x
	}
}

// stretches marks where n bits in a row begin, 1 <= n <= MaxChain.
func (m *pageMap) stretches(n uint) pageMap {
	s := *m
	for have := uint(1); have < n; {
		k := min(have, n-have)
		s.narrow(&s, k) // ascending: reads words it has not narrowed yet
		have += k
	}
	return s
}

// longest is the length of the longest row of bits, at most MaxChain.
func (m *pageMap) longest() int {
	n := 0
	for s := *m; !s.empty() && n < MaxChain; n++ {
		s.narrow(m, uint(n+1))
	}
	return n
}

// first is the lowest bit, -1 if there is none.
func (m *pageMap) first() int {
	for i, w := range m {
		if w != 0 {
			return i*64 + bits.TrailingZeros64(w)
		}
	}
	return -1
}

// next is the first row of bits at or after i: where it begins and its
// length, 0 if there is none.
func (m *pageMap) next(i uint32) (start, n uint32) {
	for i < chunkPages && !m.has(i) {
		i++
	}
	for start = i; i < chunkPages && m.has(i); {
		i++
	}
	return start, i - start
}

// keepLast drops all but the n highest bits, or a few more: rows of one byte
// stay together.
func (m *pageMap) keepLast(n int) {
	for w := chunkWords - 1; w >= 0; w-- {
		for b := 56; b >= 0; b -= 8 {
			if n <= 0 {
				m[w] &^= 0xff << b
			}
			n -= bits.OnesCount64(m[w] >> b & 0xff)
		}
	}
}

// keepFirst is keepLast from the other end.
func (m *pageMap) keepFirst(n int) {
	for w := range m {
		for b := 0; b < 64; b += 8 {
			if n <= 0 {
				m[w] &^= 0xff << b
			}
			n -= bits.OnesCount64(m[w] >> b & 0xff)
		}
	}
}
