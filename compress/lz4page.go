package compress

import (
	"encoding/binary"
	"math/bits"
	"unsafe"
)

// This is an LZ4 encoder for blocks of exactly one page. The general encoder of
// the library has a table of 64 Ki entries, sixteen for every byte of a page; it
// is slower here and its blocks are larger. This one goes along the page as the
// kernel's LZ4_compress_fast does, and differs in two things. It looks for six
// bytes that were seen before and takes any match of four or more that this finds:
// a page has a tenth fewer sequences then, and what takes the time is the
// mispredicted branches of each. And a bucket of the table holds the last two
// positions with a hash; the second is taken where it gives a long match and the
// first does not.

const (
	// 2048 buckets are 8 KiB and stay in the first cache with the page; twice as
	// many save 0.2 % of the bytes stored (measured).
	lz4HashBits = 11

	// A match of this length or more is long.
	lz4Long = 12

	// The format's rules for the end of a block: no match starts in the last 12
	// bytes, and the last 5 are literals.
	lz4LastMatch = PageSize - 12
	lz4MatchEnd  = PageSize - 5

	// The last position that is searched: a long match still fits behind it. What
	// the four positions up to lz4LastMatch would save is 0.2 % (measured), and a
	// branch for each sequence costs more.
	lz4LastSearch = lz4MatchEnd - lz4Long
)

// lz4Encoder holds the table: in each bucket the last position with that hash in
// the lower half and the one before in the upper. An empty half names position 0,
// which is a candidate like any other: candidates are compared before they are
// used. Invariant while it encodes: every position in the table lies below the
// one that is searched and at or below lz4LastMatch, so reads of 12 bytes at a
// candidate and at the position stay inside the page.
type lz4Encoder struct {
	table [1 << lz4HashBits]uint32
}

// load8, load32 and load64 read the page at i, copy16 copies from there, and put8
// and put16 write to dst at n; all of it lies inside the page and dst, see
// lz4Encoder and encode. Bounds checks there cost a quarter of the speed (measured).
func load8(p *[PageSize]byte, i int) byte { return *(*byte)(unsafe.Add(unsafe.Pointer(p), i)) }

func load32(p *[PageSize]byte, i int) uint32 {
	return binary.LittleEndian.Uint32((*[4]byte)(unsafe.Add(unsafe.Pointer(p), i))[:])
}

func load64(p *[PageSize]byte, i int) uint64 {
	return binary.LittleEndian.Uint64((*[8]byte)(unsafe.Add(unsafe.Pointer(p), i))[:])
}

func copy16(dst *[outSize]byte, n int, p *[PageSize]byte, i int) {
	*(*[16]byte)(unsafe.Add(unsafe.Pointer(dst), n)) = *(*[16]byte)(unsafe.Add(unsafe.Pointer(p), i))
}

func put8(dst *[outSize]byte, n, v int) { *(*byte)(unsafe.Add(unsafe.Pointer(dst), n)) = byte(v) }

func put16(dst *[outSize]byte, n, v int) {
	binary.LittleEndian.PutUint16((*[2]byte)(unsafe.Add(unsafe.Pointer(dst), n))[:], uint16(v))
}

// lz4Hash is of the lower six bytes.
func lz4Hash(v uint64) uint64 { return v << 16 * 0xcf1bbcdcbfa56300 >> (64 - lz4HashBits) }

// encode writes the page as one LZ4 block and gives its length, or 0 when that
// would not be less than PageSize. As in the kernel, acceleration is the step with
// which the search begins; the step grows by one with every 64 positions without
// a match.
//
// A sequence covers 4 bytes of the page or more with its match, writes at most 3
// bytes beside its literals and one for each 255 that it covers, and no byte of the
// page is covered twice. So a dst of two pages is long enough whatever the page
// holds, also if it changed meanwhile.
func (e *lz4Encoder) encode(dst *[outSize]byte, p *[PageSize]byte, acceleration int) int {
	t := &e.table
	clear(t[:]) // the same page always gives the same bytes
	at, literals, n := 1, 0, 0
	for at <= lz4LastSearch {
		// Search: from is where the match begins.
		var from int
		var bucket uint32
		for steps := acceleration << 6; ; {
			v := load64(p, at)
			h := lz4Hash(v)
			bucket = t[h]
			t[h] = bucket<<16 | uint32(at)
			from = int(bucket & 0xffff)
			if load32(p, from) == uint32(v) {
				break
			}
			at += steps >> 6
			steps++
			if at > lz4LastSearch {
				return lz4Finish(dst[:], n, p, literals)
			}
		}
		// end is where it ends.
		var end int
		if x := load64(p, at+4) ^ load64(p, from+4); x == 0 {
			end = matchEnd(p, from+lz4Long, at+lz4Long, lz4MatchEnd)
		} else if other := int(bucket >> 16); load64(p, other+4) == load64(p, at+4) && load32(p, other) == load32(p, at) {
			from, end = other, matchEnd(p, other+lz4Long, at+lz4Long, lz4MatchEnd)
		} else {
			end = at + 4 + bits.TrailingZeros64(x)>>3
		}
		for at > literals && from > 0 && load8(p, at-1) == load8(p, from-1) {
			at--
			from--
		}

		// One sequence: token, literals, offset, and the lengths that do not fit the token.
		// It is written here and not in a function, which costs 7 % (measured).
		run, more := at-literals, end-at-4
		if run < 15 && literals+16 <= PageSize {
			put8(dst, n, run<<4|min(more, 15))
			copy16(dst, n+1, p, literals)
			n += 1 + run
		} else {
			n = lz4Literals(dst[:], n, min(more, 15), p[literals:at])
		}
		put16(dst, n, at-from)
		n += 2
		if more >= 15 {
			for more -= 15; more >= 255; more -= 255 {
				put8(dst, n, 255)
				n++
			}
			put8(dst, n, more)
			n++
		}
		if end <= lz4LastMatch {
			h := lz4Hash(load64(p, end-2))
			t[h] = t[h]<<16 | uint32(end-2)
		}
		at, literals = end, end
	}
	return lz4Finish(dst[:], n, p, literals)
}

// lz4Literals writes a token, whose lower half is match, and a run of literals.
//
//go:noinline
func lz4Literals(dst []byte, n, match int, run []byte) int {
	dst[n] = byte(min(len(run), 15)<<4 | match)
	n++
	if len(run) >= 15 {
		n = lz4Length(dst, n, len(run)-15)
	}
	return n + copy(dst[n:], run)
}

// lz4Finish writes what is left of the page as literals.
func lz4Finish(dst []byte, n int, p *[PageSize]byte, literals int) int {
	run := PageSize - literals
	if n+run+run/255+2 > min(len(dst), PageSize-1) {
		return 0
	}
	return lz4Literals(dst, n, 0, p[literals:])
}

// matchEnd gives the end, at most end, of the bytes from at that equal those from
// match. For LZ4 it is for what is long and rare: inlined, it takes registers from
// the search.
//
//go:noinline
func matchEnd(p *[PageSize]byte, match, at, end int) int {
	for ; at+8 <= end; at, match = at+8, match+8 {
		if x := load64(p, at) ^ load64(p, match); x != 0 {
			return at + bits.TrailingZeros64(x)>>3
		}
	}
	for at < end && p[at] == p[match] {
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
