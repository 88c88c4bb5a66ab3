package compress

import (
	"math/bits"
	"slices"
)

// brotliReader reads what brotliWriter writes, and refuses all else.
type brotliReader struct {
	literals, commands, distances brotliCode
	widths                        brotliCode // of the lengths of another code
	insertFirst, copyFirst        [24]int    // immutable
	lengths                       [brotliCommands]uint8
}

// brotliCode is a code; only is its symbol if it has just one, which takes no
// bits, else -1.
type brotliCode struct {
	only int
	huffman
}

func (c *brotliCode) read(r *bitReader) int {
	if c.only >= 0 {
		return c.only
	}
	return c.huffman.read(r)
}

func newBrotliReader() *brotliReader {
	return &brotliReader{insertFirst: ranges(0, insertExtra), copyFirst: ranges(copyLeast, copyExtra)}
}

// page fills dst and says whether src was a page that ends where src ends.
func (z *brotliReader) page(dst *[PageSize]byte, src []byte) bool {
	r := bitReader{in: src}
	r.fill()
	if r.take(2) != 0 || !z.readCode(&r, &z.literals, 256) || !z.readCode(&r, &z.commands, brotliCommands) ||
		!z.readCode(&r, &z.distances, brotliDistances) {
		return false
	}
	last := firstDistances()
	for n := 0; ; {
		r.fill()
		s := z.commands.read(&r)
		if s < 0 {
			return false
		}
		inserts, copies := s>>3&7, s&7
		if s < brotliImplicit {
			copies += s >> 6 << 3
		} else {
			cell := int(brotliCells[s>>6-2])
			inserts, copies = inserts+cell>>4<<3, copies+cell&15<<3
		}
		insert := z.insertFirst[inserts] + int(r.take(uint(insertExtra[inserts])))
		r.fill()
		length := z.copyFirst[copies] + int(r.take(uint(copyExtra[copies])))
		if r.torn || insert > PageSize-n {
			return false
		}
		for end := n + insert; n < end; n++ {
			if r.n < brotliDeepest {
				r.fill()
			}
			b := z.literals.read(&r)
			if b < 0 {
				return false
			}
			dst[n] = byte(b)
		}
		if n == PageSize { // the copy of the last command is not made
			return r.padded()
		}
		distance := int(last[0])
		if s >= brotliImplicit {
			if distance = z.distance(&r, &last); distance <= 0 {
				return false
			}
		}
		if distance > n || length > PageSize-n {
			return false
		}
		if n = repeat(dst, n, distance, length); n == PageSize {
			return r.padded()
		}
	}
}

// distance reads one that is named, 0 or less if it is none.
func (z *brotliReader) distance(r *bitReader, last *lastDistances) int {
	r.fill()
	s := z.distances.read(r)
	d := 0
	switch {
	case s < 0:
		return 0
	case s == 0:
		return int(last[0])
	case s < 16:
		d = last.of(s)
	default:
		s -= 16
		low, s := s&(1<<brotliPostfix-1), s>>brotliPostfix
		extra := uint(s>>1) + 1
		if extra > 16 {
			return 0 // farther than a page, and more bits than take gives
		}
		d = ((2+s&1)<<extra-4+int(r.take(extra)))<<brotliPostfix + low + 1
	}
	if d <= 0 || d > PageSize || r.torn {
		return 0
	}
	last.push(d)
	return d
}

// readCode reads a code over so many symbols, RFC 7932 section 3.4 and 3.5.
func (z *brotliReader) readCode(r *bitReader, c *brotliCode, symbols int) bool {
	r.fill()
	skip := int(r.take(2))
	if skip == 1 {
		return z.readSimple(r, c, symbols)
	}
	widths := z.lengths[:len(brotliCodeOrder)]
	clear(widths)
	room, used := 32, 0
	for _, s := range []byte(brotliCodeOrder[skip:]) {
		// The code of these is fixed: 0, 3, 4 in 2 bits, 2 in 3, 1 and 5 in 4.
		const size = "\x02\x02\x02\x03\x02\x02\x02\x04\x02\x02\x02\x03\x02\x02\x02\x04"
		const value = "\x00\x04\x03\x02\x00\x04\x03\x01\x00\x04\x03\x02\x00\x04\x03\x05"
		r.fill()
		v := r.b & 15
		r.take(uint(size[v]))
		if widths[s] = value[v]; value[v] != 0 {
			used++
			if room -= 32 >> value[v]; room <= 0 {
				break
			}
		}
	}
	if r.torn || room != 0 && used != 1 || !z.widths.make(widths) {
		return false
	}
	return z.readLengths(r, symbols) && c.make(z.lengths[:symbols])
}

// readSimple reads a code of one to four symbols.
func (z *brotliReader) readSimple(r *bitReader, c *brotliCode, symbols int) bool {
	n := int(r.take(2)) + 1
	lengths := z.lengths[:symbols]
	clear(lengths)
	var which [4]int
	for i := range n {
		r.fill()
		which[i] = int(r.take(uint(bits.Len(uint(symbols - 1)))))
		if which[i] >= symbols || slices.Contains(which[:i], which[i]) {
			return false
		}
	}
	sizes := "\x01\x00\x00\x00"
	switch {
	case n == 2:
		sizes = "\x01\x01\x00\x00"
	case n == 3:
		sizes = "\x01\x02\x02\x00"
	case n == 4 && r.take(1) == 0:
		sizes = "\x02\x02\x02\x02"
	case n == 4:
		sizes = "\x01\x02\x03\x03"
	}
	for i := range n {
		lengths[which[i]] = sizes[i]
	}
	return !r.torn && c.make(lengths)
}

// readLengths reads the lengths of a code with the code of z.widths: 16 repeats
// the last that was not 0, 17 repeats 0, and one after the other they multiply.
func (z *brotliReader) readLengths(r *bitReader, symbols int) bool {
	lengths := z.lengths[:symbols]
	clear(lengths)
	room := 1 << brotliDeepest
	before, repeated, again := uint8(8), -1, 0
	for i := 0; room > 0; {
		if i == symbols {
			return false
		}
		r.fill()
		s := z.widths.read(r)
		if s < 0 {
			return false
		}
		if s < 16 {
			lengths[i] = uint8(s)
			if s != 0 {
				before = uint8(s)
				room -= 1 << brotliDeepest >> s
			}
			i, repeated = i+1, -1
			continue
		}
		extra := uint(s - 14) // 2 bits or 3
		more := 3 + int(r.take(extra))
		if s == repeated {
			more += again<<extra - 2<<extra - again
		} else {
			again = 0
		}
		repeated, again = s, again+more
		if r.torn || more > symbols-i {
			return false
		}
		if s == 16 {
			room -= more << brotliDeepest >> before
			for k := range more {
				lengths[i+k] = before
			}
		}
		i += more
	}
	return room == 0 && !r.torn
}

// make builds the code.
func (c *brotliCode) make(lengths []uint8) bool {
	c.only = -1
	for s, l := range lengths {
		if l != 0 {
			if c.only >= 0 {
				c.only = -1
				return c.build(lengths)
			}
			c.only = s
		}
	}
	return c.only >= 0
}
