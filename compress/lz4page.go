package compress

import (
	"encoding/binary"
	"math/bits"
	"unsafe"
)

// This is an LZ4 encoder for blocks of exactly one page. The general encoder of
// the library has a table of 64 Ki entries, sixteen for every byte of a page; it
// is slower here and its blocks are larger. This one follows the kernel's
// LZ4_compress_fast, with one change: a bucket of the table holds the last two
// positions with a hash, and the longer match of the two is taken. On real memory
// that saves a sixteenth of what the kernel stores.

const (
	// 2048 buckets are 8 KiB and stay in the first cache with the page; twice as
	// many save 0.1 % of the bytes stored (measured).
	lz4HashBits = 11

	// The format's rules for the end of a block: no match starts in the last 12
	// bytes, and the last 5 are literals.
	lz4LastMatch = PageSize - 12
	lz4MatchEnd  = PageSize - 5
)

// lz4Encoder holds the table: in each bucket the last position with that hash in
// the lower half and the one before in the upper. An empty half names position 0,
// which is a candidate like any other: candidates are compared before they are
// used. Invariant while it encodes: every position in the table lies below the
// one that is searched and at or below lz4LastMatch, so reads of 8 bytes at a
// candidate and at the position stay inside the page.
type lz4Encoder struct {
	table [1 << lz4HashBits]uint32
}

// load32 and load64 read the page at i, which is at most lz4LastMatch and
// PageSize-8. Bounds checks there cost a quarter of the speed (measured).
func load32(p *[PageSize]byte, i int) uint32 {
	return binary.LittleEndian.Uint32((*[4]byte)(unsafe.Add(unsafe.Pointer(p), i))[:])
}

func load64(p *[PageSize]byte, i int) uint64 {
	return binary.LittleEndian.Uint64((*[8]byte)(unsafe.Add(unsafe.Pointer(p), i))[:])
}

func lz4Hash(v uint32) uint32 { return v * 2654435761 >> (32 - lz4HashBits) }

// encode writes the page as one LZ4 block and gives its length, or 0 when dst may
// be too short for it. As in the kernel, acceleration is the step with which the
// search begins; the step grows by one with every 64 positions without a match.
func (e *lz4Encoder) encode(dst []byte, p *[PageSize]byte, acceleration int) int {
	t := &e.table
	clear(t[:]) // the same page always gives the same bytes
	at, literals, n := 1, 0, 0
	for at <= lz4LastMatch {
		// Search: from = where the match begins, end = where it ends.
		var from, end int
		for step, grow := 1, acceleration<<6; ; {
			v := load32(p, at)
			h := lz4Hash(v)
			b := t[h]
			t[h] = b<<16 | uint32(at)
			last, before := int(b&0xffff), int(b>>16)
			if load32(p, last) == v {
				from, end = last, lz4Extend(p, last+4, at+4)
				if load32(p, before) == v {
					if e := lz4Extend(p, before+4, at+4); e > end {
						from, end = before, e
					}
				}
				break
			}
			if load32(p, before) == v {
				from, end = before, lz4Extend(p, before+4, at+4)
				break
			}
			at += step
			step = grow >> 6
			grow++
			if at > lz4LastMatch {
				return lz4Finish(dst, n, p, literals)
			}
		}
		for at > literals && from > 0 && p[at-1] == p[from-1] {
			at--
			from--
		}

		// One sequence: token, literals, offset, and the lengths that do not fit the token.
		run, more := at-literals, end-at-4
		if n+run+run/255+more/255+24 > len(dst) { // 24: what is fixed, and the copy of 16 below
			return 0
		}
		token := byte(min(more, 15))
		if run < 15 {
			dst[n] = byte(run<<4) | token
			n++
		} else {
			dst[n] = 15<<4 | token
			n = lz4Length(dst, n+1, run-15)
		}
		if run <= 16 && literals+16 <= PageSize {
			*(*[16]byte)(dst[n:]) = *(*[16]byte)(p[literals:])
		} else {
			copy(dst[n:], p[literals:at])
		}
		n += run
		binary.LittleEndian.PutUint16(dst[n:], uint16(at-from))
		n += 2
		if more >= 15 {
			n = lz4Length(dst, n, more-15)
		}
		if end <= lz4LastMatch {
			h := lz4Hash(load32(p, end-2))
			t[h] = t[h]<<16 | uint32(end-2)
		}
		at, literals = end, end
	}
	return lz4Finish(dst, n, p, literals)
}

// lz4Finish writes what is left of the page as literals.
func lz4Finish(dst []byte, n int, p *[PageSize]byte, literals int) int {
	run := PageSize - literals
	if n+run+run/255+2 > len(dst) {
		return 0
	}
	if run < 15 {
		dst[n] = byte(run << 4)
		n++
	} else {
		dst[n] = 15 << 4
		n = lz4Length(dst, n+1, run-15)
	}
	return n + copy(dst[n:], p[literals:])
}

// lz4Extend gives the end, at most lz4MatchEnd, of the bytes from at that equal those from match.
func lz4Extend(p *[PageSize]byte, match, at int) int {
	for ; at+8 <= lz4MatchEnd; at, match = at+8, match+8 {
		if x := load64(p, at) ^ load64(p, match); x != 0 {
			return at + bits.TrailingZeros64(x)>>3
		}
	}
	for at < lz4MatchEnd && p[at] == p[match] {
		at++
		match++
	}
	return at
}

// lz4Length writes the rest of a length that did not fit the token.
func lz4Length(dst []byte, n, rest int) int {
	for ; rest >= 255; rest -= 255 {
		dst[n] = 255
		n++
	}
	dst[n] = byte(rest)
	return n + 1
}
