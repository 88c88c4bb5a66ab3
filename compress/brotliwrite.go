package compress

import "math/bits"

// A brotliWriter writes pages. It finds the way through a page that costs the
// fewest bits, with what each symbol cost on the way before, as often as its level
// says. It has about 200 KiB.
type brotliWriter struct {
	rounds                        int                 // immutable
	insertCode, copyCode          [PageSize + 1]uint8 // immutable: the range of a length
	insertFirst, copyFirst        [24]int             // immutable: the first length of a range
	literals, commands, distances symbolWriter
	maker                         codeMaker
	way                           []brotliStep
	brotliSearch
}

// A brotliStep is a command: literals, then a copy from so far back. The last
// one may have no copy.
type brotliStep struct{ insert, length, code, distance uint16 }

func newBrotliWriter(rounds int) *brotliWriter {
	z := &brotliWriter{
		rounds:      rounds,
		insertFirst: ranges(0, insertExtra), copyFirst: ranges(copyLeast, copyExtra),
		literals: newSymbolWriter(256), commands: newSymbolWriter(brotliCommands), distances: newSymbolWriter(brotliDistances),
		way: make([]brotliStep, 0, PageSize),
	}
	z.maker.leaves = make([]uint32, 0, brotliCommands)
	fill := func(to *[PageSize + 1]uint8, firsts [24]int) {
		code := 0
		for n := range to {
			for code < 23 && firsts[code+1] <= n {
				code++
			}
			to[n] = uint8(code)
		}
	}
	fill(&z.insertCode, z.insertFirst)
	fill(&z.copyCode, z.copyFirst)
	return z
}

// command gives the symbol of a command.
func (z *brotliWriter) command(insert, length int, repeat bool) int {
	i, c := int(z.insertCode[insert]), int(z.copyCode[length])
	low := i&7<<3 | c&7
	if repeat && i < 8 && c < 16 {
		return c>>3<<6 | low
	}
	const cells = "\x00\x01\x04\x02\x03\x06\x05\x07\x08" // by eights of literals, then of copies
	return brotliImplicit + int(cells[i>>3*3+c>>3])<<6 | low
}

// farCode gives the symbol of a distance that repeats none, and how many bits follow.
func farCode(d int) (code int, extra uint, more int) {
	d--
	low := d & (1<<brotliPostfix - 1)
	d = d>>brotliPostfix + 4
	extra = uint(bits.Len(uint(d))) - 2
	code = 16 + (int(extra-1)<<1|d>>extra&1)<<brotliPostfix | low
	return code, extra, d & (1<<extra - 1)
}

// page writes a page to dst, which has outSize bytes, and gives the length, or
// 0 if that would be a page or more.
func (z *brotliWriter) page(dst []byte, page *[PageSize]byte) int {
	z.guess(page)
	for round := range z.rounds {
		if round != 0 {
			z.learn()
		}
		z.search(page)
		z.count(page)
	}
	w := bitWriter{out: dst}
	w.put(0, 2) // what is left of the head
	z.literals.write(&w, &z.maker)
	z.commands.write(&w, &z.maker)
	z.distances.write(&w, &z.maker)
	at := 0
	for _, s := range z.way {
		if !z.step(&w, s, page[at:at+int(s.insert)]) {
			return 0
		}
		at += int(s.insert + s.length)
	}
	w.put(0, -w.n&7)
	if w.at >= PageSize {
		return 0
	}
	return w.at
}

// step writes a command, and says whether it still is less than a page.
func (z *brotliWriter) step(w *bitWriter, s brotliStep, literals []byte) bool {
	length := max(s.length, copyLeast)
	symbol := z.command(int(s.insert), int(length), s.code == 0)
	i, c := z.insertCode[s.insert], z.copyCode[length]
	z.commands.put(w, symbol)
	w.put(uint64(int(s.insert)-z.insertFirst[i]), uint(insertExtra[i]))
	w.put(uint64(int(length)-z.copyFirst[c]), uint(copyExtra[c]))
	for _, b := range literals {
		if z.literals.put(w, int(b)); w.at >= PageSize {
			return false
		}
	}
	if s.length != 0 && symbol >= brotliImplicit {
		z.distances.put(w, int(s.code))
		if s.code >= 16 {
			_, extra, more := farCode(int(s.distance))
			w.put(uint64(more), extra)
		}
	}
	return w.at < PageSize
}

// count counts the symbols of the way.
func (z *brotliWriter) count(page *[PageSize]byte) {
	clear(z.literals.counts)
	clear(z.commands.counts)
	clear(z.distances.counts)
	at := 0
	for _, s := range z.way {
		symbol := z.command(int(s.insert), max(int(s.length), copyLeast), s.code == 0)
		z.commands.counts[symbol]++
		for _, b := range page[at : at+int(s.insert)] {
			z.literals.counts[b]++
		}
		if s.length != 0 && symbol >= brotliImplicit {
			z.distances.counts[s.code]++
		}
		at += int(s.insert) + int(s.length)
	}
}
