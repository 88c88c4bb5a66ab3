package pool

import (
	"sync"
	"sync/atomic"

	"github.com/zramfs/zramfs/internal/invariants"
	"github.com/zramfs/zramfs/internal/percpu"
)

// The lists of a slab, by fullness: 0 holds zspages of which less than 10 % of
// the objects are in use, 9 those of 90 % and more that are not full.
const (
	fullnesses = 10
	listStuck  = fullnesses     // compaction could not empty these; until it is done
	lists      = fullnesses + 1 // how many there are
	listNone   = lists          // in no list: open, full, or in somebody's hands
)

// What a slab has of a class that another may take: a zspage in a list, the one
// that it is filling.
const (
	offersPartial = 1 << iota
	offersOpen
)

// slab is where one stream's objects come from. A zspage is in one slab at a
// time; other slabs take its partly filled ones before they grow.
type slab struct {
	id      uint32 // immutable
	mu      sync.Mutex
	classes []slabClass // mu
	objects int64       // mu; live in zspages of this slab, huge pages too
	huge    int64       // mu; of them huge pages
	bytes   int64       // mu; that were stored, without headers
	_       [percpu.CacheLine]byte
}

// slabClass is what a slab has of a class; the slab's mutex guards it.
type slabClass struct {
	open    uint32 // zspage that is being filled, none: there is none
	head    [lists]uint32
	length  [lists]uint32
	linked  uint32        // sum of length
	zspages uint32        // all: open, full, in a list
	objects uint64        // live in them
	offers  atomic.Uint32 // what others may take; anyone may look
}

func (s *slab) lock() {
	invariants.Acquire(invariants.RankSlab)
	s.mu.Lock()
}

// tryLock is how a second slab is locked.
func (s *slab) tryLock() bool {
	if !s.mu.TryLock() {
		return false
	}
	invariants.Acquired(invariants.RankSlab)
	return true
}

func (s *slab) unlock() {
	invariants.Release(invariants.RankSlab)
	s.mu.Unlock()
}

func (s *slab) init(id uint32, classes int) {
	s.id = id
	s.objects, s.huge, s.bytes = 0, 0, 0
	s.classes = make([]slabClass, classes)
	for i := range s.classes {
		k := &s.classes[i]
		k.open = none
		for l := range k.head {
			k.head[l] = none
		}
	}
}

// fullness is the list for a zspage with objects in use, not all.
func fullness(objects uint16, c *class) uint8 {
	return uint8(uint32(objects) * fullnesses / c.objects)
}

// link puts zspage r into a list.
func (k *slabClass) link(t *table, r uint32, list uint8) {
	d := &t.runs[r]
	d.list, d.prev, d.next = list, none, k.head[list]
	if d.next != none {
		t.runs[d.next].prev = r
	}
	k.head[list] = r
	k.length[list]++
	if k.linked++; k.linked == 1 {
		k.announce()
	}
}

// unlink takes zspage r out of its list, if it is in one.
func (k *slabClass) unlink(t *table, r uint32) {
	d := &t.runs[r]
	if d.list == listNone {
		return
	}
	if d.prev == none {
		k.head[d.list] = d.next
	} else {
		t.runs[d.prev].next = d.next
	}
	if d.next != none {
		t.runs[d.next].prev = d.prev
	}
	k.length[d.list]--
	if k.linked--; k.linked == 0 {
		k.announce()
	}
	d.list, d.next, d.prev = listNone, none, none
}

// fill makes zspage r, in no list, the open one; none closes it, and leaves
// what was open to the caller.
func (k *slabClass) fill(r uint32) {
	k.open = r
	k.announce()
}

// announce tells other slabs what there is to steal.
func (k *slabClass) announce() {
	var offers uint32
	if k.linked != 0 {
		offers |= offersPartial
	}
	if k.open != none {
		offers |= offersOpen
	}
	k.offers.Store(offers)
}

// settle puts zspage r, which is neither open nor empty, where it belongs.
func (k *slabClass) settle(t *table, r uint32, c *class) {
	d := &t.runs[r]
	list := uint8(listNone)
	if uint32(d.objects) < c.objects {
		list = fullness(d.objects, c)
	}
	if d.list != list {
		k.unlink(t, r)
		if list != listNone {
			k.link(t, r, list)
		}
	}
}

// fullest is the partly filled zspage in which the fewest objects are free,
// not a stuck one.
func (k *slabClass) fullest() uint32 {
	for l := fullnesses - 1; l >= 0; l-- {
		if k.head[l] != none {
			return k.head[l]
		}
	}
	return none
}

// best is the partly filled zspage to fill next.
func (k *slabClass) best() uint32 {
	if r := k.fullest(); r != none {
		return r
	}
	return k.head[listStuck]
}

// emptiest is the partly filled zspage with the fewest objects, not a stuck one.
func (k *slabClass) emptiest() uint32 {
	for l := range fullnesses {
		if k.head[l] != none {
			return k.head[l]
		}
	}
	return none
}

// shut closes the open zspage, so that it is one of the partly filled.
func (k *slabClass) shut(t *table, c *class) {
	if r := k.open; r != none {
		k.fill(none)
		k.settle(t, r, c)
	}
}

// hand gives zspage r, in no list, from one slab to another. Both are locked.
func (p *Pool) hand(r uint32, number uint8, from, to *slab) {
	d := &p.table.runs[r]
	n := int64(d.objects)
	a, b := &from.classes[number], &to.classes[number]
	a.zspages--
	a.objects -= uint64(n)
	from.objects -= n
	b.zspages++
	b.objects += uint64(n)
	to.objects += n
	d.slab.Store(to.id)
}

// release makes an empty zspage's pages free. Its slab is locked.
func (p *Pool) release(s *slab, r uint32, number uint8) {
	k, c := &s.classes[number], &p.geo.classes[number]
	if k.open == r {
		k.fill(none)
	}
	k.unlink(p.table, r)
	k.zspages--
	p.zspages[number].Add(-1)
	p.table.unmake(r)
	if p.arena.give(r, c.pages) {
		p.rouse()
	}
	p.account.Give(int64(c.pages))
}
