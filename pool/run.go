package pool

import (
	"errors"
	"fmt"
	"math/bits"
	"sync/atomic"
	"unsafe"
)

// none is no zspage.
const none = ^uint32(0)

// run describes an arena page; the descriptor of a zspage is that of its first
// page, whose number names the zspage. One of a free page is zero.
//
// While a zspage has objects its class, pages and back do not change, so who
// keeps an object alive may read them without a lock. slab changes under the
// mutexes of the old and the new slab: read it, lock that slab, read it again.
// The slab's mutex guards everything else, and the zspage's bitmap.
type run struct {
	next, prev uint32 // in list; none at the ends
	slab       atomic.Uint32
	objects    uint16 // live ones
	class      uint8
	pages      uint8 // of the zspage, 0: not the first page of one
	back       uint8 // pages back to the zspage's first
	list       uint8 // where the slab has it
	hint       uint8 // no bitmap word before this one has a clear bit
	_          [5]byte
}

// table holds the descriptors of all arena pages and the bitmaps of all
// zspages. A zspage of p pages owns p*wordsByPage words, a bit per object, set:
// in use. Bits beyond the last object are set.
type table struct {
	runs []run    // those of runStore
	bits []uint64 // those of bitStore

	runStore *derived[run]
	bitStore *derived[uint64]
}

const (
	runSize  = int64(unsafe.Sizeof(run{}))
	wordSize = 8
)

// newTable makes the descriptors of so many pages, in the first bytes of
// scratch, or without it in memory of this process.
func newTable(pages int64, scratch Memory) (*table, error) {
	t := &table{}
	var err error
	if t.runStore, err = newDerived[run](pages, scratch, 0); err != nil {
		return nil, err
	}
	if t.bitStore, err = newDerived[uint64](pages*wordsByPage, scratch, derivedBytes[run](pages)); err != nil {
		return nil, errors.Join(err, t.runStore.close())
	}
	t.runs, t.bits = t.runStore.all, t.bitStore.all
	return t, nil
}

// populate commits what describes n pages from page on.
func (t *table) populate(page, n uint32) error {
	if err := t.runStore.populate(int64(page), int64(n)); err != nil {
		return err
	}
	return t.bitStore.populate(int64(page)*wordsByPage, int64(n)*wordsByPage)
}

func (t *table) close() error { return errors.Join(t.runStore.close(), t.bitStore.close()) }

// words is the bitmap of zspage r.
func (t *table) words(r uint32, c *class) []uint64 {
	return t.bits[r*wordsByPage:][:(c.objects+63)/64]
}

// make turns free pages into an empty zspage.
func (t *table) make(r uint32, number uint8, c *class, slab uint32) {
	for i := range c.pages {
		d := &t.runs[r+i]
		d.class, d.back = number, uint8(i)
	}
	d := &t.runs[r]
	d.next, d.prev, d.objects, d.pages, d.hint, d.list = none, none, 0, uint8(c.pages), 0, listNone
	d.slab.Store(slab)
	words := t.words(r, c)
	clear(words)
	if over := c.objects % 64; over != 0 {
		words[len(words)-1] = ^uint64(0) << over
	}
}

// unmake turns an empty zspage into free pages.
func (t *table) unmake(r uint32) {
	n := uint32(t.runs[r].pages)
	for i := range n {
		d := &t.runs[r+i]
		d.class, d.back, d.pages = 0, 0, 0
	}
}

// claim takes the lowest free object of a zspage that has one.
func (t *table) claim(r uint32, c *class) uint32 {
	d, words := &t.runs[r], t.words(r, c)
	for w := int(d.hint); w < len(words); w++ {
		if free := ^words[w]; free != 0 {
			words[w] |= free & -free
			d.hint = uint8(w)
			d.objects++
			return uint32(w*64 + bits.TrailingZeros64(free))
		}
	}
	panic(fmt.Sprintf("pool: zspage %d has %d of %d objects and no free one", r, d.objects, c.objects))
}

// drop frees object i of zspage r.
func (t *table) drop(r, i uint32, c *class) {
	d, word := &t.runs[r], &t.words(r, c)[i/64]
	if *word>>(i%64)&1 == 0 {
		panic(fmt.Sprintf("pool: object %d of zspage %d is freed twice", i, r))
	}
	*word &^= 1 << (i % 64)
	d.hint = min(d.hint, uint8(i/64))
	d.objects--
}

// next is the lowest object in use from i on, none if there is none.
func (t *table) next(r, i uint32, c *class) uint32 {
	words := t.words(r, c)
	for ; i < c.objects; i = (i/64 + 1) * 64 {
		if rest := words[i/64] >> (i % 64); rest != 0 {
			if i += uint32(bits.TrailingZeros64(rest)); i < c.objects {
				return i
			}
			return none
		}
	}
	return none
}

// at finds the zspage and the number of the object of class number at a byte
// of the arena; false if there can be none. For an object that lives it reads
// only what does not change meanwhile.
func (t *table) at(off uint64, number uint8, c *class) (r, i uint32, ok bool) {
	page := uint32(off / PageSize)
	r = page - uint32(t.runs[page].back)
	d := &t.runs[r]
	in := uint32(off - uint64(r)*PageSize)
	i = in / c.size
	return r, i, d.pages != 0 && d.class == number && i*c.size == in && i < c.objects
}

// alive says whether object i of zspage r is in use. The zspage's slab is
// locked.
func (t *table) alive(r, i uint32, number uint8, c *class) bool {
	d := &t.runs[r]
	return d.pages != 0 && d.class == number && t.words(r, c)[i/64]>>(i%64)&1 != 0
}
