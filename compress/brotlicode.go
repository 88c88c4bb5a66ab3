package compress

import (
	"encoding/binary"
	"math/bits"
	"slices"
)

// bitWriter appends bits, the lowest first, to out.
type bitWriter struct {
	out []byte // has room for 8 bytes more than are written
	at  int
	b   uint64
	n   uint // bits in b, at most 7 between calls
}

// put appends the low k bits of v, k <= 56, above which v is 0.
func (w *bitWriter) put(v uint64, k uint) {
	w.b |= v << w.n
	w.n += k
	binary.LittleEndian.PutUint64(w.out[w.at:], w.b)
	w.at += int(w.n >> 3)
	w.b >>= w.n &^ 7
	w.n &= 7
}

// A codeMaker makes Huffman codes.
type codeMaker struct {
	leaves []uint32 // symbol and its count: count<<10 | symbol
	weight [2 * brotliCommands]uint32
	parent [2 * brotliCommands]uint16
}

// lengths sets the length of each symbol's code by how often it occurs, limit
// at most, and says how many symbols occur. If one does, its length is 0.
func (m *codeMaker) lengths(to []uint8, counts []uint32, limit int) int {
	clear(to)
	for least := uint32(1); ; least *= 2 {
		m.leaves = m.leaves[:0]
		for s, c := range counts {
			if c != 0 {
				m.leaves = append(m.leaves, max(c, least)<<10|uint32(s))
			}
		}
		n := len(m.leaves)
		if n < 2 {
			return n
		}
		slices.Sort(m.leaves)
		for i, l := range m.leaves {
			m.weight[i] = l >> 10
		}
		leaf, inner := 0, n // the least of either kind that has no parent
		for next := n; next < 2*n-1; next++ {
			m.weight[next] = 0
			for range 2 {
				k := &inner
				if leaf < n && (inner == next || m.weight[leaf] <= m.weight[inner]) {
					k = &leaf
				}
				m.weight[next] += m.weight[*k]
				m.parent[*k] = uint16(next)
				*k++
			}
		}
		// From here on weight is the depth.
		deepest := uint32(0)
		m.weight[2*n-2] = 0
		for i := 2*n - 3; i >= 0; i-- {
			m.weight[i] = m.weight[m.parent[i]] + 1
			deepest = max(deepest, m.weight[i])
		}
		if int(deepest) > limit {
			continue
		}
		for i, l := range m.leaves {
			to[l&1023] = uint8(m.weight[i])
		}
		return n
	}
}

// codes gives the code of each symbol, its bits in the order in which they are written.
func codes(to []uint16, lengths []uint8) {
	var count, next [brotliDeepest + 1]uint16
	for _, l := range lengths {
		count[l]++
	}
	count[0] = 0
	for l := 1; l <= brotliDeepest; l++ {
		next[l] = (next[l-1] + count[l-1]) << 1
	}
	for s, l := range lengths {
		to[s] = 0 // of no bits, for a symbol that is alone
		if l != 0 {
			to[s] = bits.Reverse16(next[l]) >> (16 - l)
			next[l]++
		}
	}
}

// A symbolWriter is one of the three codes of a page, made anew for each.
type symbolWriter struct {
	counts  []uint32
	lengths []uint8
	codes   []uint16
}

func newSymbolWriter(symbols int) symbolWriter {
	return symbolWriter{make([]uint32, symbols), make([]uint8, symbols), make([]uint16, symbols)}
}

func (c *symbolWriter) put(w *bitWriter, s int) { w.put(uint64(c.codes[s]), uint(c.lengths[s])) }

// write makes the code from the counts and writes what the reader makes it from.
func (c *symbolWriter) write(w *bitWriter, m *codeMaker) {
	n := m.lengths(c.lengths, c.counts, brotliDeepest)
	codes(c.codes, c.lengths)
	if n > 4 {
		m.writeLengths(w, c.lengths)
		return
	}
	w.put(1, 2)
	w.put(uint64(max(n, 1)-1), 2)
	var which [4]int
	n = 0
	for s, k := range c.counts {
		if k != 0 {
			which[n] = s
			n++
		}
	}
	slices.SortFunc(which[:n], func(a, b int) int { return int(c.lengths[a]) - int(c.lengths[b]) })
	for _, s := range which[:max(n, 1)] {
		w.put(uint64(s), uint(bits.Len(uint(len(c.counts)-1))))
	}
	if n == 4 {
		w.put(uint64(c.lengths[which[0]]&1), 1) // 1: lengths 1, 2, 3, 3; 0: all 2
	}
}

// A width is one of 18 symbols that the lengths of a code are told in, and bits
// that follow it.
type width struct{ symbol, extra uint8 }

// writeLengths writes the lengths of a code of five symbols or more.
func (m *codeMaker) writeLengths(w *bitWriter, lengths []uint8) {
	var room [brotliCommands]width
	all := widths(room[:0], lengths)
	var counts [18]uint32
	for _, x := range all {
		counts[x.symbol]++
	}
	var sizes [18]uint8
	var code [18]uint16
	n := m.lengths(sizes[:], counts[:], 5)
	codes(code[:], sizes[:])
	store := len(brotliCodeOrder)
	told := sizes
	if n == 1 {
		told[all[0].symbol] = 1 // any length: the code takes no bits
	} else {
		for told[brotliCodeOrder[store-1]] == 0 {
			store--
		}
	}
	skip := 0
	if told[brotliCodeOrder[0]]|told[brotliCodeOrder[1]] == 0 {
		skip = 2
		if told[brotliCodeOrder[2]] == 0 {
			skip = 3
		}
	}
	w.put(uint64(skip), 2)
	for _, s := range []byte(brotliCodeOrder[skip:store]) {
		const code, size = "\x00\x07\x03\x02\x01\x0f", "\x02\x04\x03\x02\x02\x04"
		w.put(uint64(code[told[s]]), uint(size[told[s]]))
	}
	for _, x := range all {
		w.put(uint64(code[x.symbol]), uint(sizes[x.symbol]))
		if x.symbol >= 16 {
			w.put(uint64(x.extra), uint(x.symbol-14))
		}
	}
}

// widths appends what tells the lengths, up to the last that is not 0.
func widths(to []width, lengths []uint8) []width {
	end := len(lengths)
	for lengths[end-1] == 0 {
		end--
	}
	before := uint8(8)
	for i := 0; i < end; {
		l, n := lengths[i], 1
		for i+n < end && lengths[i+n] == l {
			n++
		}
		i += n
		symbol, shift := uint8(16), uint(2)
		if l == 0 {
			symbol, shift = 17, 3
		} else if l != before {
			to = append(to, width{symbol: l})
			before = l
			n--
		}
		if n < 3 {
			for range n {
				to = append(to, width{symbol: l})
			}
			continue
		}
		// Digits of base 4 or 8, the highest first.
		first := len(to)
		for n -= 3; ; n-- {
			to = append(to, width{symbol, uint8(n & (1<<shift - 1))})
			if n >>= shift; n == 0 {
				break
			}
		}
		slices.Reverse(to[first:])
	}
	return to
}
