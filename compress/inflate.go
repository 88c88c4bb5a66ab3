package compress

// This reads DEFLATE (RFC 1951) for blocks of exactly one page. The library's
// reader makes tables while it reads, at an unforeseeable page, and copies all
// through a window of 32 KiB; here the page is the window and nothing is made.

// An inflater holds the Huffman tables. Those of the fixed codes are built once.
type inflater struct {
	literals, distances           huffman // of the current block
	fixedLiterals, fixedDistances huffman // immutable
	lengths                       [288 + 32]uint8
}

func newInflater() *inflater {
	z := new(inflater)
	for i := range 288 {
		switch {
		case i < 144:
			z.lengths[i] = 8
		case i < 256:
			z.lengths[i] = 9
		case i < 280:
			z.lengths[i] = 7
		default:
			z.lengths[i] = 8
		}
	}
	z.fixedLiterals.build(z.lengths[:288])
	for i := range 30 {
		z.lengths[i] = 5
	}
	z.fixedDistances.build(z.lengths[:30])
	return z
}

// page fills dst and says whether src was a stream of exactly one page that ends
// where src ends.
func (z *inflater) page(dst *[PageSize]byte, src []byte) bool {
	r, n, ok := bitReader{in: src}, 0, true
	for final := false; !final; {
		r.fill()
		final = r.take(1) == 1
		switch r.take(2) {
		case 0:
			n, ok = storedBlock(dst, n, &r)
		case 1:
			n, ok = inflateBlock(dst, n, &r, &z.fixedLiterals, &z.fixedDistances)
		case 2:
			if ok = z.readCodes(&r); ok {
				n, ok = inflateBlock(dst, n, &r, &z.literals, &z.distances)
			}
		default:
			return false
		}
		if !ok || r.torn {
			return false
		}
	}
	return n == PageSize && r.left() == 0
}

// storedBlock copies a block of type 0, bytes as they are.
func storedBlock(dst *[PageSize]byte, n int, r *bitReader) (int, bool) {
	r.take(r.n & 7)
	r.fill()
	length := int(r.take(16))
	if r.take(16) != uint64(length)^0xffff || r.torn {
		return n, false
	}
	r.at -= int(r.n / 8) // what fill took ahead
	r.b, r.n = 0, 0
	if length > PageSize-n || length > len(r.in)-r.at {
		return n, false
	}
	copy(dst[n:], r.in[r.at:r.at+length])
	r.at += length
	return n + length, true
}

// inflateBlock reads symbols up to the end of the block.
func inflateBlock(dst *[PageSize]byte, n int, r *bitReader, literals, distances *huffman) (int, bool) {
	for {
		r.fill() // at least 56 bits or all: one length with its distance takes 48
		s := literals.read(r)
		if s < 256 {
			if s < 0 || n == PageSize {
				return n, false
			}
			dst[n] = byte(s)
			n++
			continue
		}
		if s == 256 {
			return n, true
		}
		// Lengths: eight of 3 to 10, then groups of four with one more extra bit each, and 258.
		length := s - 257 + 3
		switch {
		case s > 285:
			return n, false
		case s == 285:
			length = 258
		case s >= 265:
			extra := uint(s-261) >> 2
			length = 3 + (4+(s-257)&3)<<extra + int(r.take(extra))
		}
		// Distances: four of 1 to 4, then groups of two.
		d := distances.read(r)
		distance := d + 1
		if d >= 4 {
			if d >= 30 {
				return n, false
			}
			extra := uint(d)>>1 - 1
			distance = 1 + (2+d&1)<<extra + int(r.take(extra))
		}
		if d < 0 || r.torn || distance > n || length > PageSize-n {
			return n, false
		}
		n = repeat(dst, n, distance, length)
	}
}

// readCodes reads the two codes at the start of a block of type 2.
func (z *inflater) readCodes(r *bitReader) bool {
	const order = "\x10\x11\x12\x00\x08\x07\x09\x06\x0a\x05\x0b\x04\x0c\x03\x0d\x02\x0e\x01\x0f"
	literals, distances, codes := int(r.take(5))+257, int(r.take(5))+1, int(r.take(4))+4
	if literals > 286 || distances > 30 {
		return false
	}
	clear(z.lengths[:])
	for i := range codes {
		r.fill()
		z.lengths[order[i]] = uint8(r.take(3))
	}
	// The code of the code lengths is needed only here; it borrows the distances' place.
	code := &z.distances
	if !code.build(z.lengths[:19]) {
		return false
	}
	clear(z.lengths[:19])
	for i := 0; i < literals+distances; {
		r.fill()
		s := code.read(r)
		if s < 0 {
			return false
		}
		if s < 16 {
			z.lengths[i] = uint8(s)
			i++
			continue
		}
		again, value := 0, uint8(0)
		switch s {
		case 16:
			if i == 0 {
				return false
			}
			again, value = 3+int(r.take(2)), z.lengths[i-1]
		case 17:
			again = 3 + int(r.take(3))
		default:
			again = 11 + int(r.take(7))
		}
		if r.torn || again > literals+distances-i {
			return false
		}
		for ; again > 0; again-- {
			z.lengths[i] = value
			i++
		}
	}
	return z.literals.build(z.lengths[:literals]) && z.distances.build(z.lengths[literals:literals+distances])
}
