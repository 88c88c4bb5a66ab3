package blockdev

import (
	"sync/atomic"
	"unsafe"

	"github.com/zramfs/zramfs/internal/invariants"
)

// wordsPerPage is how many machine words fill a page.
const wordsPerPage = PageSize / 8

// sameFilled says whether all machine words of a page are equal, and gives the
// element. page is PageSize bytes; it need not be aligned.
func sameFilled(page []byte) (uint64, bool) {
	w := (*[wordsPerPage]uint64)(unsafe.Pointer(unsafe.SliceData(page[:PageSize:PageSize])))
	e := w[0]
	// Most pages differ at one of the ends; only the others are worth a scan.
	if w[wordsPerPage-1] != e || w[1] != e {
		return 0, false
	}
	for i := 0; i < wordsPerPage; i += 8 {
		b := w[i : i+8 : i+8]
		if (b[0]^e)|(b[1]^e)|(b[2]^e)|(b[3]^e)|(b[4]^e)|(b[5]^e)|(b[6]^e)|(b[7]^e) != 0 {
			return 0, false
		}
	}
	return e, true
}

// fill makes dst what a same-filled page reads as. The element's bytes are in
// the machine's order, and dst starts at byte off of the page.
func fill(dst []byte, element uint64, off int) {
	if element == 0 {
		clear(dst)
		return
	}
	e := (*[8]byte)(unsafe.Pointer(&element))
	n := 0
	for ; n < len(dst) && n < 8; n++ {
		dst[n] = e[(off+n)%8]
	}
	for n < len(dst) {
		n += copy(dst[n:], dst[:n])
	}
}

// Where the element of a same page is, in the size field of its word.
const (
	sameInline  = 1 + iota // 32 bits of it in the word
	sameTable              // in the element table, its check in the word
	sameReplace            // in the element table; it is being replaced, so there is no check
)

// sameWord packs a slot's element into a word; one that does not fit lies in
// the element table.
func sameWord(slot, element uint64) word {
	if lo := element & 0xffffffff; lo == element>>32 {
		return makeWord(same, 0, sameInline, lo)
	}
	return makeWord(same, 0, sameTable, elementCheck(slot, element))
}

// elementCheck tells a slot's element from others: one in 2^32 passes, and none
// that differs in one bit, since a product with an odd number loses no bit.
func elementCheck(slot, element uint64) uint64 {
	return uint64(uint32(element) ^ uint32(element>>32)*0x9E3779B1 ^ uint32((slot+1)*0x9E3779B97F4A7C15>>32))
}

// putElement stores an element that does not fit into the word. Where there is
// one already the word says so first: whoever dies here leaves the one or the
// other. Caller holds the slot's lock and stores the word next.
func (t *table) putElement(slot uint64, old word, element uint64) {
	switch {
	case old.inTable():
		t.store(slot, makeWord(same, 0, sameReplace, 0))
	case old.state() == backed:
		t.store(slot, old|flagReplaced)
	}
	t.ensure(slot)
	invariants.CrashPoint("table.element")
	atomic.StoreUint64(&t.elements[slot], element)
	invariants.CrashPoint("table.element.stored")
}

// wipeElement zeroes what the word that was just replaced had in the element
// table. Caller holds the slot's lock.
func (t *table) wipeElement(slot uint64, old word) {
	if old.inTable() || old.state() == backed {
		invariants.CrashPoint("table.wipe")
		atomic.StoreUint64(&t.elements[slot], 0)
		invariants.CrashPoint("table.wiped")
	}
}

// element gives what fills a same page; false if it is not what was stored.
// Caller holds the slot's lock.
func (t *table) element(slot uint64, w word) (uint64, bool) {
	if w.inTable() {
		e := atomic.LoadUint64(&t.elements[slot])
		return e, w.size() == sameReplace || w.place() == elementCheck(slot, e)
	}
	return w.place()&0xffffffff | w.place()<<32, true
}
