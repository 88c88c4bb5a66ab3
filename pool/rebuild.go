package pool

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
)

// Object is what the owner's word says of a stored object.
type Object struct {
	Owner uint32
	Place Place
	Size  int // bytes stored, PageSize for a huge page
}

// Damage is the error of a walk that found objects which cannot be what their
// owners say. It is an ErrCorrupt.
type Damage struct {
	Objects []Object // as the walk gave them
	First   error    // what is wrong with the first of them
}

// errTaken: an object that another word named before.
var errTaken = errors.New("it has two owners")

func (d *Damage) Error() string {
	return fmt.Sprintf("pool: %d damaged objects, the first: %v", len(d.Objects), d.First)
}

// Unwrap gives what is wrong with the first one.
func (d *Damage) Unwrap() error { return d.First }

func (d *Damage) add(o Object, err error) {
	if d.First == nil {
		d.First = fmt.Errorf("object of %d at place %d, %d bytes: %w", o.Owner, o.Place, o.Size, err)
	}
	d.Objects = append(d.Objects, o)
}

// errOrNil hides a Damage of nothing.
func (d *Damage) errOrNil() error {
	if len(d.Objects) == 0 {
		return nil
	}
	return d
}

// Rebuild makes everything that is derived from the owner's words, in any
// order, and from which pages are committed. Objects that cannot be where
// their words say are left out and returned in a *Damage; the pool is whole
// without them, and their words must not be used any more. Sums are not
// verified: Get does that. The account is not asked: its owner sets it from
// Stats afterwards. Any other error leaves the pool to be closed.
//
// walk is called by several threads at a time: each takes the chunks of some of
// the slabs, so that they share nothing.
func (p *Pool) Rebuild(walk func(yield func(Object) bool)) error {
	if err := p.clear(); err != nil {
		return fmt.Errorf("pool: rebuild: %w", err)
	}
	if err := p.survey(); err != nil {
		return fmt.Errorf("pool: rebuild: %w", err)
	}
	shares := make([]share, min(len(p.slabs), runtime.GOMAXPROCS(0)))
	var threads sync.WaitGroup
	for i := range shares {
		threads.Go(func() { shares[i].rebuild(p, i, len(shares), walk) })
	}
	threads.Wait()
	var damage Damage
	var err error
	for i := range shares {
		s := &shares[i]
		err = errors.Join(err, s.err)
		damage.Objects = append(damage.Objects, s.damage.Objects...)
		if damage.First == nil {
			damage.First = s.damage.First
		}
	}
	if err != nil {
		return fmt.Errorf("pool: rebuild: %w", err)
	}
	for i := range p.arena.chunks {
		if c := &p.arena.chunks[i]; !c.committed.empty() { // else nothing to tell, and no page to take for it
			p.arena.update(i)
		}
	}
	return damage.errOrNil()
}

// share is what one thread of Rebuild does: the chunks whose number, modulo the
// slabs and then modulo the threads, is its own.
type share struct {
	contested []Object // whose place another word named before, while the header names them
	damage    Damage
	err       error
}

func (s *share) rebuild(p *Pool, me, of int, walk func(yield func(Object) bool)) {
	chunks := p.arena.chunks
	// other is 0 for a chunk of this share.
	slabs, threads := uint32(len(p.slabs)), uint32(of)
	other := func(chunk uint32) uint32 { return chunk%slabs%threads ^ uint32(me) }
	for i := range chunks {
		if other(uint32(i)) == 0 && !chunks[i].committed.empty() {
			if s.err = p.describe(i); s.err != nil {
				return
			}
		}
	}
	// Shares lie among each other, so the processor cannot guess whose the next
	// object is: it is put into the batch in any case, and stays if it is of this one.
	var batch [128]Object
	n := 0
	walk(func(o Object) bool {
		batch[n] = o
		n += int((uint64(other(uint32(o.Place/(ChunkSize/granule)))) - 1) >> 63)
		if n == len(batch) {
			s.adopt(p, batch[:])
			n = 0
		}
		return true
	})
	s.adopt(p, batch[:n])
	settled := map[Place]bool{}
	for _, o := range s.contested {
		if settled[o.Place] {
			s.damage.add(o, fmt.Errorf("%w: %w", errTaken, ErrCorrupt))
			continue
		}
		settled[o.Place] = true
		p.contest(o, walk, &s.damage)
	}
	for i := range chunks {
		if c := &chunks[i]; other(uint32(i)) == 0 && !c.used.empty() {
			p.settleChunk(uint32(i)*chunkPages, c)
		}
	}
}

// adopt takes up objects of this share.
func (s *share) adopt(p *Pool, objects []Object) {
	for _, o := range objects {
		switch err := p.adopt(o); {
		case err == nil:
		case errors.Is(err, errTaken) && uint32(p.header(uint64(o.Place)*granule, o.Size)) == o.Owner:
			s.contested = append(s.contested, o)
		default:
			s.damage.add(o, err)
		}
	}
}

// clear forgets everything. The pages of the arena count as void. The memory
// of what describes them stays, for Rebuild to use again.
func (p *Pool) clear() error {
	a, t := p.arena, p.table
	if err := errors.Join(t.runStore.zero(), t.bitStore.zero(), a.store.zero()); err != nil {
		return err
	}
	p.restart()
	return nil
}

// giveBack is clear, and gives the memory back.
func (p *Pool) giveBack() error {
	a, t := p.arena, p.table
	if err := errors.Join(t.runStore.empty(), t.bitStore.empty(), a.store.empty()); err != nil {
		return err
	}
	p.restart()
	return nil
}

func (p *Pool) restart() {
	a := p.arena
	a.initSets(len(a.chunks))
	a.committed, a.free, a.reserve, a.starved, a.punching = 0, 0, 0, 0, false
	p.initSlabs()
}

// survey finds the committed pages.
func (p *Pool) survey() error {
	a := p.arena
	limit := int64(len(p.mem))
	err := a.memory.Data(func(off, n int64) bool {
		for page, end := off/PageSize, min(off+n, limit)/PageSize; page < end; {
			k := min(end-page, chunkPages-page%chunkPages)
			a.chunks[page/chunkPages].committed.setSpan(uint32(page%chunkPages), uint32(k))
			page += k
		}
		return true
	})
	if err != nil {
		return err
	}
	return a.beside.Data(func(off, n int64) bool {
		const page = int64(chunkPages * HeaderSize)
		for i := off / page; i < min((off+n)/page, int64(len(a.chunks))); i++ {
			a.chunks[i].side = true
		}
		return true
	})
}

// describe commits what goes with a chunk of which a page is committed: its
// descriptors and its page of the side array.
func (p *Pool) describe(i int) error {
	p.arena.chunks[i].side = true
	return errors.Join(
		p.arena.populate(i),
		p.table.populate(uint32(i)*chunkPages, chunkPages),
		p.arena.beside.Populate(SideBytes(int64(i)*ChunkSize), SideBytes(ChunkSize)))
}

// adopt takes an object into the zspage that its place and size name, which is
// made if there is none and the object's header agrees: one wrong word must
// not claim the pages of right ones.
func (p *Pool) adopt(o Object) error {
	r, i, number, made := p.find(o)
	if !made {
		var err error
		if r, i, number, err = p.locate(o); err != nil {
			return err
		}
		if d := &p.table.runs[r]; d.pages != 0 {
			return fmt.Errorf("zspage %d is of another class: %w", r, ErrCorrupt)
		}
		if err := p.establish(o, r, number); err != nil {
			return err
		}
	}
	c, d := &p.geo.classes[number], &p.table.runs[r]
	word := &p.table.words(r, c)[i/64]
	if *word>>(i%64)&1 != 0 {
		return fmt.Errorf("object %d of zspage %d: %w: %w", i, r, errTaken, ErrCorrupt)
	}
	*word |= 1 << (i % 64)
	d.objects++
	s := &p.slabs[d.slab.Load()]
	s.classes[number].objects++
	s.objects++
	s.bytes += int64(o.Size)
	if number == p.geo.hugeClass() {
		s.huge++
	}
	return nil
}

// contest settles who has the object that o, whose header names it, found taken:
// a wrong word may have come first, since adopt reads one header of a zspage. The
// holder is the first that was not refused.
func (p *Pool) contest(o Object, walk func(yield func(Object) bool), damage *Damage) {
	r, _, number, _ := p.locate(o)
	refused := map[Object]int{}
	for _, d := range damage.Objects {
		if d.Place == o.Place {
			refused[d]++
		}
	}
	walk(func(holder Object) bool {
		if holder.Place != o.Place || !p.geo.stores(holder.Size) || p.geo.classOf(holder.Size) != number {
			return true
		}
		if refused[holder] > 0 {
			refused[holder]--
			return true
		}
		if uint32(p.header(uint64(o.Place)*granule, o.Size)) == holder.Owner {
			damage.add(o, fmt.Errorf("%w: %w", errTaken, ErrCorrupt))
		} else {
			damage.add(holder, fmt.Errorf("%w: %w", errTaken, ErrCorrupt))
			p.slabs[p.table.runs[r].slab.Load()].bytes += int64(o.Size - holder.Size)
		}
		return false
	})
}

// find is locate for an object of a zspage that was made: most are.
func (p *Pool) find(o Object) (r, i uint32, number uint8, ok bool) {
	if !p.geo.stores(o.Size) || uint64(o.Place) >= uint64(len(p.mem))/granule {
		return 0, 0, 0, false
	}
	number = p.geo.classOf(o.Size)
	r, i, ok = p.table.at(uint64(o.Place)*granule, number, &p.geo.classes[number])
	return r, i, number, ok
}

// locate finds the zspage, the number in it and the class of an object.
func (p *Pool) locate(o Object) (r, i uint32, number uint8, err error) {
	if !p.geo.stores(o.Size) || uint64(o.Place) >= uint64(len(p.mem))/granule {
		return 0, 0, 0, fmt.Errorf("place or size out of range: %w", ErrCorrupt)
	}
	number = p.geo.classOf(o.Size)
	c := &p.geo.classes[number]
	r, i, ok := c.start(uint64(o.Place) * granule)
	if !ok {
		return 0, 0, 0, fmt.Errorf("between the objects of class %d: %w", c.size, ErrCorrupt)
	}
	if r/chunkPages != (r+c.pages-1)/chunkPages {
		return 0, 0, 0, fmt.Errorf("zspage %d crosses a chunk: %w", r, ErrCorrupt)
	}
	return r, i, number, nil
}

// establish makes zspage r for its first object.
func (p *Pool) establish(o Object, r uint32, number uint8) error {
	c, ch := &p.geo.classes[number], &p.arena.chunks[r/chunkPages]
	var m pageMap
	m.setSpan(r%chunkPages, c.pages)
	for w := range m {
		if m[w]&^ch.committed[w] != 0 {
			return fmt.Errorf("zspage %d is not committed: %w", r, ErrCorrupt)
		}
		if m[w]&ch.used[w] != 0 {
			return fmt.Errorf("zspage %d overlaps another: %w", r, ErrCorrupt)
		}
	}
	if got := uint32(p.header(uint64(o.Place)*granule, o.Size)); got != o.Owner {
		return fmt.Errorf("header names %d: %w", got, ErrCorrupt)
	}
	ch.used.setSpan(r%chunkPages, c.pages)
	s := &p.slabs[r/chunkPages%uint32(len(p.slabs))]
	p.table.make(r, number, c, s.id)
	s.classes[number].zspages++
	p.zspages[number].Add(1)
	return nil
}

// settleChunk puts the zspages of a chunk into their slabs' lists.
func (p *Pool) settleChunk(first uint32, ch *chunk) {
	for i := uint32(0); i < chunkPages; {
		d := &p.table.runs[first+i]
		if !ch.used.has(i) {
			i++
			continue
		}
		i += uint32(d.pages)
		k := &p.slabs[d.slab.Load()].classes[d.class]
		k.settle(p.table, i-uint32(d.pages)+first, &p.geo.classes[d.class])
	}
}
