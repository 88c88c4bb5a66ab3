package compress

// A page is a brotli stream (RFC 7932) of one block, with one code for each of
// the three kinds of symbols and no word of the format's dictionary: on pages
// of memory all the rest of the format gains 2 % together.
//
// What every such stream begins with is not stored, see brotliHead.

const (
	brotliCommands  = 704
	brotliPostfix   = 0 // low bits of a distance that are part of its symbol (NPOSTFIX)
	brotliDistances = 16 + 48<<brotliPostfix
	brotliImplicit  = 128 // commands below repeat the last distance and name none
	brotliDeepest   = 15  // bits of the longest code
	brotliCodeOrder = "\x01\x02\x03\x04\x00\x05\x11\x06\x10\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f"
)

// Lengths of literals and of copies come in 24 ranges each. These are how many
// bits tell the place in one; a range begins where the one before ends.
const (
	insertExtra = "\x00\x00\x00\x00\x00\x00\x01\x01\x02\x02\x03\x03\x04\x04\x05\x05\x06\x07\x08\x09\x0a\x0c\x0e\x18"
	copyExtra   = "\x00\x00\x00\x00\x00\x00\x00\x00\x01\x01\x02\x02\x03\x03\x04\x04\x05\x05\x06\x07\x08\x09\x0a\x18"
	copyLeast   = 2
)

// ranges gives where the ranges begin.
func ranges(first int, extra string) (firsts [24]int) {
	for i := range firsts {
		firsts[i] = first
		first += 1 << extra[i]
	}
	return firsts
}

// brotliHead gives the bytes that all streams begin with, low bits first: a
// window of 64 KiB, the last block, not empty, PageSize bytes in 16 bits; one
// type of each kind; brotliPostfix and no direct distances; a mode of contexts that
// are not used. Two bits more say that there is one code for literals and one for
// distances; they are 0, and the lowest of what is stored.
func brotliHead() [4]byte {
	v := uint32(1<<1 | (PageSize-1)<<5)
	v |= brotliPostfix << 24
	return [4]byte{byte(v), byte(v >> 8), byte(v >> 16), byte(v >> 24)}
}

// brotliCells are the 64-symbol cells of the commands that name a distance: the
// ranges of literals and of copies, in eighths of 8.
const brotliCells = "\x00\x01\x10\x11\x02\x20\x12\x21\x22"

// lastDistances are the four distances that codes 0 to 3 repeat, the last first.
type lastDistances [4]uint16

func firstDistances() lastDistances { return lastDistances{4, 11, 15, 16} }

// of gives the distance of a code below 16, 0 or less if there is none.
func (l *lastDistances) of(code int) int {
	if code < 4 {
		return int(l[code])
	}
	d := (code-4)%6/2 + 1
	if code&1 == 0 {
		d = -d
	}
	return int(l[(code-4)/6]) + d
}

// push makes d the last one. A repetition of the last changes nothing.
func (l *lastDistances) push(d int) {
	l[3], l[2], l[1], l[0] = l[2], l[1], l[0], uint16(d)
}
