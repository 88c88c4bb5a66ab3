package compress

import (
	"bytes"
	"encoding/binary"
	"math/bits"

	"github.com/pierrec/lz4/v4"
)

// lz4DictMax is how much of a dictionary's end an LZ4 block can make use of: with
// the page behind it, all that 16 bits of offset reach.
const lz4DictMax = 1<<16 - PageSize

// lz4Dict writes LZ4 blocks that go on from a dictionary, as the kernel's backend
// does, and reads them with the library's decoder. It is lz4Encoder with a second
// table: buckets of the dictionary's positions, which never change.
type lz4Dict struct {
	acceleration int
	start        int             // of the page: the dictionary's length
	text         []byte          // the dictionary, and room for the page that is compressed
	known        [1 << 14]uint32 // positions in the dictionary, two in a bucket, each and 1; 0: none
	table        [1 << 11]uint32 // the same of the page
}

func newLZ4Dict(p Params) (codec, error) {
	dict := p.Dict[max(0, len(p.Dict)-lz4DictMax):]
	c := &lz4Dict{acceleration: p.level(), start: len(dict)}
	c.text = append(bytes.Clone(dict), make([]byte, PageSize)...)
	for at := 0; at+8 <= len(dict); at++ {
		lz4Note(&c.known[c.hash(at, len(c.known))], at)
	}
	return c, nil
}

// lz4Note puts a position into a bucket.
func lz4Note(bucket *uint32, at int) { *bucket = *bucket<<16 | uint32(at+1)&0xffff }

// hash gives the bucket of the four bytes at a position.
func (c *lz4Dict) hash(at, buckets int) uint32 {
	return binary.LittleEndian.Uint32(c.text[at:]) * 2654435761 >> (33 - bits.Len(uint(buckets)))
}

func (c *lz4Dict) compress(dst []byte, page *[PageSize]byte) int {
	copy(c.text[c.start:], page[:])
	clear(c.table[:]) // the same page always gives the same bytes
	last := c.start + lz4LastMatch
	n, literals := 0, c.start
	step, grow := 1, c.acceleration<<6
	for at := c.start; at <= last; {
		from, end := c.match(at)
		lz4Note(&c.table[c.hash(at, len(c.table))], at)
		if end == 0 {
			at += step
			step = grow >> 6
			grow++
			continue
		}
		for at > literals && from > 0 && c.text[at-1] == c.text[from-1] {
			at--
			from--
		}
		if n = c.sequence(dst, n, literals, at, from, end); n == 0 {
			return 0
		}
		if end <= last {
			lz4Note(&c.table[c.hash(end-2, len(c.table))], end-2)
		}
		at, literals = end, end
		step, grow = 1, c.acceleration<<6
	}
	return lz4Finish(dst, n, page, literals-c.start)
}

// match gives the longest match of the candidates for a position: where it begins
// and where, at that position, it ends; end 0: there is none.
func (c *lz4Dict) match(at int) (from, end int) {
	v := binary.LittleEndian.Uint32(c.text[at:])
	for _, bucket := range [...]uint32{c.table[c.hash(at, len(c.table))], c.known[c.hash(at, len(c.known))]} {
		for ; bucket != 0; bucket >>= 16 {
			p := int(bucket&0xffff) - 1
			if p < 0 || binary.LittleEndian.Uint32(c.text[p:]) != v {
				continue
			}
			if e := c.extend(p+4, at+4); e > end {
				from, end = p, e
			}
		}
	}
	return from, end
}

// extend gives the end of the bytes from at that equal those from match.
func (c *lz4Dict) extend(match, at int) int {
	stop := c.start + lz4MatchEnd
	for ; at+8 <= stop; at, match = at+8, match+8 {
		if x := binary.LittleEndian.Uint64(c.text[at:]) ^ binary.LittleEndian.Uint64(c.text[match:]); x != 0 {
			return at + bits.TrailingZeros64(x)>>3
		}
	}
	for at < stop && c.text[match] == c.text[at] {
		at++
		match++
	}
	return at
}

// sequence writes the literals up to at and the match of what ends at end; 0: dst
// may be too short.
func (c *lz4Dict) sequence(dst []byte, n, literals, at, from, end int) int {
	run, more := at-literals, end-at-4
	if n+run+run/255+more/255+16 > len(dst) {
		return 0
	}
	token := n
	dst[n] = byte(min(run, 15)<<4 | min(more, 15))
	n++
	if run >= 15 {
		n = lz4Length(dst, n, run-15)
	}
	n += copy(dst[n:], c.text[literals:at])
	binary.LittleEndian.PutUint16(dst[n:], uint16(at-from))
	n += 2
	if dst[token]&15 == 15 {
		n = lz4Length(dst, n, more-15)
	}
	return n
}

func (c *lz4Dict) decompress(dst *[PageSize]byte, src []byte) bool {
	n, err := lz4.UncompressBlockWithDict(src, dst[:], c.text[:c.start])
	return err == nil && n == PageSize
}
