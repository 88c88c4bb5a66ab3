package compress

import (
	"encoding/binary"
	"math"
	"slices"
)

const (
	brotliHash  = 11
	brotliTries = 16 // places that are looked at for each position
	brotliWhole = 32 // the length from which a copy is taken whole or not at all
	unit        = 32 // of costs: a bit
	never       = math.MaxUint32 / 2
)

// brotliSearch is what the search for a way through a page needs.
type brotliSearch struct {
	cost struct {
		literal  [256]uint32
		before   [PageSize + 1]uint32 // of all literals before a position
		command  [brotliCommands]uint32
		distance [brotliDistances]uint32
	}
	nodes [PageSize + 1]brotliNode
	near  struct { // the distances of codes 0 to 15 from a node, PageSize for none
		of       int
		distance [16]int
	}
	head  [1 << brotliHash]uint16 // the latest position of a hash, plus 1
	chain [PageSize]uint16        // the one before it
}

// A brotliNode is the cheapest way to a position at which a copy ends.
type brotliNode struct {
	cost     uint32
	last     lastDistances
	from     uint16 // where the literals before that copy begin
	length   uint16
	code     uint16 // of the distance
	distance uint16
}

// bitsOf gives what a symbol that occurs so often among all costs.
func bitsOf(count, all uint32) uint32 {
	return uint32(math.Log2(float64(all)/float64(count)) * unit)
}

// guess sets costs for the first round: literals as in the page, all else the
// same, which leads the next rounds to a better place than averages of many pages.
func (z *brotliWriter) guess(page *[PageSize]byte) {
	var counts [256]uint32
	for _, b := range page {
		counts[b]++
	}
	for b, c := range counts {
		z.cost.literal[b] = max(bitsOf(max(c, 1), PageSize), unit)
	}
	for s := range z.cost.command {
		z.cost.command[s] = 5 * unit
		if s < brotliImplicit {
			z.cost.command[s] = 4 * unit
		}
	}
	for s := range z.cost.distance {
		z.cost.distance[s] = 5 * unit
		if s < 4 {
			z.cost.distance[s] = 3 * unit
		}
	}
}

// learn sets costs from what the round before counted.
func (z *brotliWriter) learn() {
	set := func(to, counts []uint32) {
		all := uint32(0)
		for _, c := range counts {
			all += c
		}
		for s, c := range counts {
			if c != 0 {
				to[s] = max(bitsOf(c, all), unit/2)
			} else {
				to[s] = bitsOf(1, all+1) + 5*unit // it has to be told, too
			}
		}
	}
	set(z.cost.literal[:], z.literals.counts)
	set(z.cost.command[:], z.commands.counts)
	set(z.cost.distance[:], z.distances.counts)
}

// search finds the cheapest way at the costs of now.
func (z *brotliWriter) search(page *[PageSize]byte) {
	for i := range z.nodes {
		z.nodes[i].cost = never
	}
	z.nodes[0] = brotliNode{last: firstDistances()}
	total := uint32(0)
	for i, b := range page {
		z.cost.before[i] = total
		total += z.cost.literal[b]
	}
	z.cost.before[PageSize] = total
	clear(z.head[:])
	start, ahead := 0, int64(0) // from where a step costs least, and what it costs less than literals up to there
	z.near.of = -1
	for p, past := 0, 0; p+4 <= PageSize; p++ {
		if by := int64(z.nodes[p].cost) - int64(z.cost.before[p]); by <= ahead {
			start, ahead = p, by
		}
		if p < past { // within a long copy, where others are not worth the time
			z.enter(page, p)
			continue
		}
		if longest := max(z.repeats(page, p, start), z.matches(page, p, start)); longest >= brotliWhole {
			past = p + longest
		}
	}
	// The last step: literals to the end, or nothing.
	from := start
	rest := PageSize - from
	best := z.nodes[from].cost + z.cost.before[PageSize] - z.cost.before[from] +
		z.cost.command[z.command(rest, copyLeast, true)] + unit*uint32(insertExtra[z.insertCode[rest]])
	z.way = z.way[:0]
	if z.nodes[PageSize].cost <= best {
		from = PageSize
	} else {
		z.way = append(z.way, brotliStep{insert: uint16(PageSize - from)})
	}
	for p := from; p != 0; {
		n := &z.nodes[p]
		z.way = append(z.way, brotliStep{uint16(p) - n.length - n.from, n.length, n.code, n.distance})
		p = int(n.from)
	}
	slices.Reverse(z.way)
}

// take notes a copy at p of a start's, if it is the cheapest way to where it ends.
func (z *brotliWriter) take(j, p, length, code, distance int, until uint32) {
	symbol := z.command(p-j, length, code == 0)
	c := until + z.cost.command[symbol] + unit*uint32(insertExtra[z.insertCode[p-j]]+copyExtra[z.copyCode[length]])
	if symbol >= brotliImplicit {
		c += z.cost.distance[code]
		if code >= 16 {
			_, extra, _ := farCode(distance)
			c += unit * uint32(extra)
		}
	}
	n := &z.nodes[p+length]
	if c >= n.cost {
		return
	}
	last := z.nodes[j].last
	if code != 0 {
		last.push(distance)
	}
	*n = brotliNode{cost: c, last: last, from: uint16(j), length: uint16(length), code: uint16(code), distance: uint16(distance)}
}

// takeAll notes copies of all lengths from least on, of a long one only the whole.
func (z *brotliWriter) takeAll(j, p, least, length, code, distance int, until uint32) {
	if length >= brotliWhole {
		least = length
	}
	for l := least; l <= length; l++ {
		z.take(j, p, l, code, distance, until)
	}
}

// repeats tries copies at p from distances that lie near the last ones of the start.
func (z *brotliWriter) repeats(page *[PageSize]byte, p, j int) int {
	if j != z.near.of {
		z.near.of = j
		for code := range z.near.distance {
			d := z.nodes[j].last.of(code)
			if d <= 0 {
				d = PageSize
			}
			z.near.distance[code] = d
		}
	}
	until := z.nodes[j].cost + z.cost.before[p] - z.cost.before[j]
	reached := copyLeast - 1
	two := binary.LittleEndian.Uint16(page[p:])
	for code, d := range z.near.distance {
		if d > p || binary.LittleEndian.Uint16(page[p-d:]) != two {
			continue
		}
		length := matchEnd(page, p-d, p, PageSize) - p
		if length <= reached {
			continue
		}
		z.takeAll(j, p, reached+1, length, code, d, until)
		reached = length
	}
	return reached
}

// matches tries copies at p from what lay at places with the same hash, the
// nearest of each length.
func (z *brotliWriter) matches(page *[PageSize]byte, p, j int) int {
	longest := 3
	until := z.nodes[j].cost + z.cost.before[p] - z.cost.before[j]
	tries := brotliTries
	for q := z.enter(page, p); q >= 0 && tries > 0; tries-- {
		if p+longest < PageSize && page[q+longest] == page[p+longest] {
			if length := matchEnd(page, q, p, PageSize) - p; length > longest {
				d := p - q
				code, _, _ := farCode(d)
				z.takeAll(j, p, longest+1, length, code, d, until)
				longest = length
			}
		}
		q = int(z.chain[q]) - 1
	}
	return longest
}

// enter puts p into its chain and gives the place before it there, -1 if none.
func (z *brotliWriter) enter(page *[PageSize]byte, p int) int {
	h := binary.LittleEndian.Uint32(page[p:]) * 2654435761 >> (32 - brotliHash)
	q := z.head[h]
	z.chain[p] = q
	z.head[h] = uint16(p + 1)
	return int(q) - 1
}
