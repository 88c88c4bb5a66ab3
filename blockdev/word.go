package blockdev

import "fmt"

// word says everything about a slot's page in 64 bits:
//
//	bits  0..2   state
//	bits  3..6   params: which of the device's 16 sets decompresses it
//	bits  7..18  size-1 of the stored bytes, on the backing device too; for same: where
//	             its element is, see sameWord
//	bits 19..52  place in the pool, frame number, a same page's 32-bit pattern,
//	             the check of its element in the table, or where on the backing
//	             device its bytes are
//	bits 53..55  flags: idle, incompressible, chosen for post-processing
//	bits 56..63  check over the slot number and the other 56 bits
//
// An empty page is the word 0 and nothing else, so a table that was never
// written reads as empty, and a flipped bit is never taken for an empty page:
// the check detects every single flip. Of others it lets one in 256 pass; then
// what the word names tells, since objects, frames and elements know their slot,
// but for a page with the pattern inline. Eight bytes of zero are an empty page.
type word uint64

type state uint8

const (
	empty  state = iota // reads as zeroes
	same                // every machine word of the page is the same element
	staged              // raw, in a frame, waiting for a stream
	stored              // compressed, in an object of the pool
	huge                // raw, in a page of the pool
	lost                // its object was found damaged by Rebuild: unreadable until it is written
	backed              // on the backing device, as compressed bytes of params or as a raw page
)

// lostWord is the word of a lost page. A word that fails its check counts as
// one when it is replaced: nobody knows what it named.
const lostWord = word(lost)

// String names a state as the documentation does.
func (s state) String() string {
	if names := [...]string{"empty", "same", "staged", "stored", "huge", "lost", "backed"}; int(s) < len(names) {
		return names[s]
	}
	return fmt.Sprintf("state(%d)", uint8(s))
}

// Flags of a word.
const (
	flagIdle           = 1 << 53
	flagIncompressible = 1 << 54
	flagPP             = 1 << 55
)

const (
	paramsShift = 3
	sizeShift   = 7
	placeShift  = 19
	checkShift  = 56

	maxPlace  = 1<<34 - 1
	plainMask = 1<<checkShift - 1 // all but the check
)

// makeWord packs a word without its check. size is 1..4096, or 1 for states
// that have none.
func makeWord(s state, params uint8, size int, place uint64) word {
	return word(uint64(s) | uint64(params)<<paramsShift | uint64(size-1)<<sizeShift | place<<placeShift)
}

// seal sets the check of a word for a slot; the empty word stays 0.
func (w word) seal(slot uint64) word {
	if w&plainMask == 0 {
		return 0
	}
	return w&plainMask | word(check(uint64(w), slot))<<checkShift
}

// sound says whether a word read from shared memory may be one that was written
// for this slot.
func (w word) sound(slot uint64) bool {
	switch w.state() {
	case empty:
		return w == 0
	case same:
		return w == w.seal(slot) && w.size() <= sameReplace
	case stored:
		return w == w.seal(slot) && w.size() != PageSize
	case huge:
		return w == w.seal(slot) && w.size() == PageSize
	}
	return w == w.seal(slot) && w.state() <= backed
}

func (w word) state() state    { return state(w & 7) }
func (w word) params() uint8   { return uint8(w>>paramsShift) & 15 }
func (w word) size() int       { return int(w>>sizeShift)&0xfff + 1 }
func (w word) place() uint64   { return uint64(w>>placeShift) & maxPlace }
func (w word) has(f word) bool { return w&f != 0 }

// inTable: of a same page whose element lies in the element table.
func (w word) inTable() bool { return w.state() == same && w.size() != sameInline }

// check folds 56 bits into eight so that each bit of the word moves exactly
// one bit of the result, then mixes in the slot number.
func check(w, slot uint64) uint8 {
	w &= plainMask
	w ^= w >> 32
	w ^= w >> 16
	w ^= w >> 8
	return uint8(w) ^ uint8(slot*0x9E3779B97F4A7C15>>56)
}

// seed ties an object's CRC to the slot, and to the state, params and size that
// its word gives, so that the right bytes under the wrong name are an error too.
func (w word) seed(slot uint64) uint32 {
	return uint32(slot*0x9E3779B97F4A7C15>>32) ^ uint32(w)&(1<<placeShift-1)
}
