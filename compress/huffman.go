package compress

import (
	"encoding/binary"
	"math/bits"
)

// fastBits is how much of the input is looked up at once; longer codes are rare.
const fastBits = 10

// huffman is a canonical code of at most 704 symbols: deflate has 288, brotli 704.
type huffman struct {
	fast   [1 << fastBits]uint16 // symbol<<4 | length of its code; 0: a longer code or none
	count  [16]uint16            // symbols by length of their code
	symbol [704]uint16           // in the order of the codes
}

// bitReader holds the next n bits of in in the low bits of b; the rest of b is 0
// or holds the same bits that in goes on with.
type bitReader struct {
	in   []byte
	at   int // the next byte of in that is not in b
	b    uint64
	n    uint
	torn bool // more bits were taken than there were
}

// build makes the code from the lengths of its symbols' codes, 0 to 15, 0 for a
// symbol that does not occur. It says whether there is such a code. One that
// leaves bits unused is one; read finds these out.
func (h *huffman) build(lengths []uint8) bool {
	h.count = [16]uint16{}
	for _, l := range lengths {
		h.count[l]++
	}
	h.count[0] = 0
	var code, index [16]uint16 // the next code, and the place of its symbol, by length
	left := 1
	for l := 1; l < 16; l++ {
		if left = left<<1 - int(h.count[l]); left < 0 {
			return false
		}
		code[l] = (code[l-1] + h.count[l-1]) << 1
		index[l] = index[l-1] + h.count[l-1]
	}
	h.fast = [1 << fastBits]uint16{}
	for s, l := range lengths {
		if l == 0 {
			continue
		}
		h.symbol[index[l]] = uint16(s)
		index[l]++
		if l <= fastBits {
			// Codes come with their highest bit first, all else with the lowest.
			first := bits.Reverse16(code[l]) >> (16 - l)
			for i := int(first); i < 1<<fastBits; i += 1 << l {
				h.fast[i] = uint16(s)<<4 | uint16(l)
			}
		}
		code[l]++
	}
	return true
}

// read takes one symbol, or gives -1 when the input has none.
func (h *huffman) read(r *bitReader) int {
	if e := h.fast[r.b&(1<<fastBits-1)]; e != 0 {
		l := uint(e & 15)
		if l > r.n {
			return -1
		}
		r.b >>= l
		r.n -= l
		return int(e >> 4)
	}
	code, first, index := 0, 0, 0
	for l := uint(1); l < 16 && l <= r.n; l++ {
		code |= int(r.b>>(l-1)) & 1
		count := int(h.count[l])
		if code-first < count {
			r.b >>= l
			r.n -= l
			return int(h.symbol[index+code-first])
		}
		index += count
		first = (first + count) << 1
		code <<= 1
	}
	return -1
}

// fill makes n at least 56, or all that is left.
func (r *bitReader) fill() {
	if len(r.in)-r.at >= 8 {
		// The bytes that do not fit whole are read again by the next fill, to the same bits.
		r.b |= binary.LittleEndian.Uint64(r.in[r.at:]) << r.n
		r.at += int(63-r.n) >> 3
		r.n |= 56
		return
	}
	for r.n < 56 && r.at < len(r.in) {
		r.b |= uint64(r.in[r.at]) << r.n
		r.at++
		r.n += 8
	}
}

// take gives the next k bits, k <= 16 and less than fill made sure of.
func (r *bitReader) take(k uint) uint64 {
	if k > r.n {
		r.torn = true
		return 0
	}
	v := r.b & (1<<k - 1)
	r.b >>= k
	r.n -= k
	return v
}

// left is how many whole bytes were not taken.
func (r *bitReader) left() int { return len(r.in) - r.at + int(r.n/8) }

// padded says whether what was not taken are the zeros that fill the last byte.
func (r *bitReader) padded() bool { return r.left() == 0 && r.b&(1<<(r.n&7)-1) == 0 }

// repeat copies length bytes from distance bytes before n to n, which may be among
// them, and gives the place after them. All lie in dst.
func repeat(dst *[PageSize]byte, n, distance, length int) int {
	if distance >= length {
		copy(dst[n:n+length], dst[n-distance:])
		return n + length
	}
	for ; length > 0; length-- {
		dst[n] = dst[n-distance]
		n++
	}
	return n
}
