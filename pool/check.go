package pool

import (
	"errors"
	"fmt"
	"unsafe"

	"github.com/zramfs/zramfs/internal/shm"
)

// Check proves the invariants of a quiet pool against the owner's words: each
// object lies where its word says, has that owner alone, and there is no other;
// each used page is in one zspage; lists, sets and sums are what they sum up.
// It does not verify the sums of the bytes, and returns a *Damage if words and
// objects disagree.
func (p *Pool) Check(walk func(yield func(Object) bool)) error {
	if err := p.checkArena(); err != nil {
		return fmt.Errorf("pool: check: %w", err)
	}
	if err := p.checkSlabs(); err != nil {
		return fmt.Errorf("pool: check: %w", err)
	}
	if err := p.checkObjects(walk); err != nil {
		return fmt.Errorf("pool: check: %w", err)
	}
	return nil
}

// checkArena: maps, sets and sums of the arena agree.
func (p *Pool) checkArena() error {
	a := p.arena
	a.lock()
	defer a.unlock()
	var committed, free, reserve int64
	for i := range a.chunks {
		c := &a.chunks[i]
		t := c.count()
		if t != c.tally {
			return fmt.Errorf("chunk %d: tally %+v, should be %+v", i, c.tally, t)
		}
		for w := range c.used {
			if c.used[w]&^c.committed[w] != 0 {
				return fmt.Errorf("chunk %d: void pages are used", i)
			}
		}
		if t.committed != 0 && !c.side {
			return fmt.Errorf("chunk %d: side array is not committed", i)
		}
		ok := a.solid.has(i) == (t.solid != 0) && a.ragged.has(i) == (t.ragged() != 0) &&
			a.bare.has(i) == (t.shut != chunkPages/groupPages) && a.voids.has(i) == (t.committed != chunkPages)
		for n := uint8(1); n <= MaxChain; n++ {
			ok = ok && a.fits[n].has(i) == (n <= t.fit)
		}
		if !ok {
			return fmt.Errorf("chunk %d: sets disagree with tally %+v", i, t)
		}
		committed += int64(t.committed)
		free += int64(t.free)
		reserve += int64(t.solid) * groupPages
	}
	if committed != a.committed || free != a.free || reserve != a.reserve {
		return fmt.Errorf("arena sums up %d committed, %d free, %d reserve: should be %d, %d, %d",
			a.committed, a.free, a.reserve, committed, free, reserve)
	}
	return nil
}

// slabSum is what the zspages of a slab's class sum up to.
type slabSum struct {
	zspages, loose uint32 // loose: in no list
	objects        uint64
}

// checkSlabs: every used page is in one zspage, every zspage where its slab
// looks for it, and the slabs' counters are sums.
func (p *Pool) checkSlabs() error {
	sums := make([][]slabSum, len(p.slabs))
	for i := range sums {
		sums[i] = make([]slabSum, len(p.geo.classes))
	}
	for i := range p.arena.chunks {
		used := p.arena.chunks[i].used
		for bit, n := used.next(0); n > 0; bit, n = used.next(bit + n) {
			for page, end := uint32(i)*chunkPages+bit, uint32(i)*chunkPages+bit+n; page < end; {
				d := &p.table.runs[page]
				if err := p.checkZspage(page, end); err != nil {
					return err
				}
				k := &sums[d.slab.Load()][d.class]
				k.zspages++
				k.objects += uint64(d.objects)
				if d.list == listNone {
					k.loose++
				}
				page += uint32(d.pages)
			}
		}
	}
	for n := range p.zspages {
		want := int64(0)
		for i := range sums {
			want += int64(sums[i][n].zspages)
		}
		if got := p.zspages[n].Load(); got != want {
			return fmt.Errorf("class %d counts %d zspages and has %d", p.geo.classes[n].size, got, want)
		}
	}
	for i := range p.slabs {
		if err := p.checkSlab(&p.slabs[i], sums[i]); err != nil {
			return fmt.Errorf("slab %d: %w", i, err)
		}
	}
	return nil
}

// checkSlab: a slab's lists and counters agree with its zspages.
func (p *Pool) checkSlab(s *slab, sums []slabSum) error {
	s.lock()
	defer s.unlock()
	objects := int64(0)
	for n := range s.classes {
		k, want := &s.classes[n], sums[n]
		if err := p.checkLists(s, uint8(n)); err != nil {
			return fmt.Errorf("class %d: %w", p.geo.classes[n].size, err)
		}
		if k.zspages != want.zspages || k.objects != want.objects || k.zspages-k.linked != want.loose {
			return fmt.Errorf("class %d: %d zspages (%d in lists) and %d objects, should be %+v",
				p.geo.classes[n].size, k.zspages, k.linked, k.objects, want)
		}
		objects += int64(k.objects)
	}
	if objects != s.objects {
		return fmt.Errorf("%d objects are counted, there are %d", s.objects, objects)
	}
	return nil
}

// checkZspage: page begins a zspage that ends before end and is in order.
func (p *Pool) checkZspage(page, end uint32) error {
	d := &p.table.runs[page]
	if int(d.class) >= len(p.geo.classes) || int(d.slab.Load()) >= len(p.slabs) {
		return fmt.Errorf("page %d: class %d, slab %d", page, d.class, d.slab.Load())
	}
	c := &p.geo.classes[d.class]
	if uint32(d.pages) != c.pages || page+c.pages > end {
		return fmt.Errorf("page %d: zspage of %d pages, should be %d", page, d.pages, c.pages)
	}
	for i := range c.pages {
		tail := &p.table.runs[page+i]
		if uint32(tail.back) != i || tail.class != d.class || i > 0 && tail.pages != 0 {
			return fmt.Errorf("page %d is not page %d of zspage %d", page+i, i, page)
		}
	}
	live, hint := uint32(0), p.table.words(page, c)[:d.hint]
	for i := p.table.next(page, 0, c); i != none; i = p.table.next(page, i+1, c) {
		live++
	}
	for _, w := range hint {
		if ^w != 0 {
			return fmt.Errorf("zspage %d: free object before the hint", page)
		}
	}
	if live != uint32(d.objects) || live == 0 {
		return fmt.Errorf("zspage %d counts %d objects and has %d", page, d.objects, live)
	}
	list := uint8(listNone)
	if live < c.objects && p.slabs[d.slab.Load()].classes[d.class].open != page {
		list = fullness(d.objects, c)
	}
	if d.list != list {
		return fmt.Errorf("zspage %d with %d of %d objects is in list %d, not %d",
			page, live, c.objects, d.list, list)
	}
	return nil
}

// checkLists: the lists of a slab's class are linked both ways and hold what
// their lengths say. That each member belongs there, checkZspage saw.
func (p *Pool) checkLists(s *slab, number uint8) error {
	k, total := &s.classes[number], uint32(0)
	for l := range k.head {
		n, prev := uint32(0), uint32(none)
		for r := k.head[l]; r != none; prev, r = r, p.table.runs[r].next {
			d := &p.table.runs[r]
			mine := d.class == number && d.slab.Load() == s.id
			if !mine || d.prev != prev || int(d.list) != l || n == k.length[l] {
				return fmt.Errorf("list %d is broken at zspage %d", l, r)
			}
			n++
		}
		if n != k.length[l] {
			return fmt.Errorf("list %d counts %d and has %d", l, k.length[l], n)
		}
		total += n
	}
	offers := k.offers.Load()
	told := offers&offersPartial != 0 == (total != 0) && offers&offersOpen != 0 == (k.open != none)
	if total != k.linked || !told {
		return fmt.Errorf("lists count %d (offers %d) and have %d", k.linked, offers, total)
	}
	if k.open != none && p.table.runs[k.open].slab.Load() != s.id {
		return fmt.Errorf("open zspage %d is in another slab", k.open)
	}
	return nil
}

// checkObjects: the owner's words and the objects are one to one.
func (p *Pool) checkObjects(walk func(yield func(Object) bool)) error {
	var damage Damage
	var objects, huge, bytes int64
	// Off the heap, and sparse as the arena is: a check may run where memory is short.
	store, err := shm.NewPrivate(int64(len(p.table.bits)) * wordSize)
	if err != nil {
		return err
	}
	seen := unsafe.Slice((*uint64)(store.Base()), len(p.table.bits))
	walk(func(o Object) bool {
		r, i, number, err := p.locate(o)
		if err == nil {
			err = p.checkObject(o, r, i, number, seen)
		}
		if err != nil {
			damage.add(o, err)
			return true
		}
		objects++
		bytes += int64(o.Size)
		if o.Size == PageSize {
			huge++
		}
		return true
	})
	if err := errors.Join(damage.errOrNil(), store.Close()); err != nil {
		return err
	}
	if st := p.Stats(); st.Objects != objects || st.Huge != huge || st.Bytes != bytes {
		return fmt.Errorf("%d objects, %d huge, %d bytes are counted, the words name %d, %d, %d",
			st.Objects, st.Huge, st.Bytes, objects, huge, bytes)
	}
	return nil
}

func (p *Pool) checkObject(o Object, r, i uint32, number uint8, seen []uint64) error {
	d, word, bit := &p.table.runs[r], r*wordsByPage+i/64, uint64(1)<<(i%64)
	switch {
	case d.pages == 0 || d.class != number || p.table.bits[word]&bit == 0:
		return fmt.Errorf("no object %d in zspage %d: %w", i, r, ErrCorrupt)
	case seen[word]&bit != 0:
		return fmt.Errorf("object %d of zspage %d has two owners: %w", i, r, ErrCorrupt)
	case uint32(p.header(uint64(o.Place)*granule, o.Size)) != o.Owner:
		return fmt.Errorf("header names %d: %w", uint32(p.header(uint64(o.Place)*granule, o.Size)), ErrCorrupt)
	}
	seen[word] |= bit
	return nil
}
