package pool

import (
	"encoding/binary"

	"github.com/zramfs/zramfs/internal/invariants"
)

const (
	moveBatch   = 16  // objects that are moved while a slab is locked
	gatherBatch = 128 // zspages that change slabs while both are locked
)

// Mover publishes that an object has moved. It is called under locks of the
// pool: it tries the lock of owner's word, gives up (false) when that is held,
// when there is no such owner, or when the word does not name from; else it
// stores to in the word and says true. The object is at both places until it
// returns, and from may be used again at once when it returned true.
type Mover interface {
	Move(owner uint32, from, to Place) bool
}

// Compact moves objects from the emptiest zspages to the fullest, class by
// class, until no zspage could be freed by it, and says how many pages were
// freed. Put, Get and Free go on meanwhile. A zspage with an object that
// cannot be moved now stays. The error is nil.
func (p *Pool) Compact(m Mover) (freed int64, err error) {
	return p.CompactUntil(m, func(int64) bool { return false }), nil
}

// CompactUntil is Compact that ends early once enough says so of the pages freed
// so far. It is asked after each few objects, under no lock but compaction's.
func (p *Pool) CompactUntil(m Mover, enough func(freed int64) bool) (freed int64) {
	p.compaction.Lock()
	defer p.compaction.Unlock()
	for number := int(p.geo.hugeClass()) - 1; number >= 0 && !enough(freed); number-- {
		freed = p.compactClass(uint8(number), m, freed, enough)
	}
	p.compacted.Add(freed)
	return freed
}

// compactClass compacts one class, and gives what was freed before and by it.
func (p *Pool) compactClass(number uint8, m Mover, freed int64, enough func(freed int64) bool) int64 {
	s := &p.slabs[int(number)%len(p.slabs)] // spread over slabs, as it will own them all
	for i := range p.slabs {
		if o := &p.slabs[i]; o != s {
			p.gather(s, o, number)
		}
	}
	c := &p.geo.classes[number]
	for more := true; more && !enough(freed); {
		var pages int64
		pages, more = p.empty(s, number, m)
		freed += pages
	}
	s.lock()
	k := &s.classes[number]
	for k.head[listStuck] != none {
		k.settle(p.table, k.head[listStuck], c)
	}
	s.unlock()
	return freed
}

// gather gives s the partly filled zspages of another slab, as far as nobody
// uses that slab at the moment.
func (p *Pool) gather(s, o *slab, number uint8) {
	c := &p.geo.classes[number]
	for rounds := 1; rounds > 0; rounds-- {
		s.lock()
		if !o.tryLock() {
			s.unlock()
			return
		}
		from, to := &o.classes[number], &s.classes[number]
		if rounds == 1 {
			from.shut(p.table, c)
			rounds += int(from.linked) / gatherBatch
		}
		for range gatherBatch {
			r := from.emptiest()
			if r == none {
				break
			}
			from.unlink(p.table, r)
			p.hand(r, number, o, s)
			to.settle(p.table, r, c)
		}
		o.unlock()
		s.unlock()
	}
}

// empty moves up to moveBatch objects out of the emptiest zspage of s. more:
// there is more to move.
func (p *Pool) empty(s *slab, number uint8, m Mover) (freed int64, more bool) {
	s.lock()
	defer s.unlock()
	t, k, c := p.table, &s.classes[number], &p.geo.classes[number]
	k.shut(t, c)
	src := k.emptiest()
	if src == none || uint64(k.zspages)*uint64(c.objects)-k.objects < uint64(c.objects) {
		return 0, false // the free objects do not make a zspage
	}
	k.unlink(t, src)
	i := t.next(src, 0, c)
	for range moveBatch {
		dst := k.fullest()
		if dst == none {
			k.settle(t, src, c)
			return 0, false
		}
		if !p.move(k, src, i, dst, number, m) {
			k.link(t, src, listStuck)
			return 0, true
		}
		p.moved.Add(1)
		p.wipe(src, i, number) // or a later Wipe would miss this copy
		t.drop(src, i, c)
		if t.runs[src].objects == 0 {
			p.release(s, src, number)
			return int64(c.pages), true
		}
		i = t.next(src, i+1, c)
	}
	k.settle(t, src, c)
	return 0, true
}

// move copies object i of src into dst and has it published.
func (p *Pool) move(k *slabClass, src, i, dst uint32, number uint8, m Mover) bool {
	c := &p.geo.classes[number]
	j := p.table.claim(dst, c)
	from := uint64(src)*PageSize + uint64(i*c.size)
	to := uint64(dst)*PageSize + uint64(j*c.size)
	invariants.CrashPoint("pool.move.begin")
	invariants.Copy("pool.move.half", p.mem[to:][:c.size], p.mem[from:][:c.size])
	invariants.CrashPoint("pool.move.copied")
	owner := binary.LittleEndian.Uint32(p.mem[to:])
	moved := m.Move(owner, Place(from/granule), Place(to/granule))
	invariants.CrashPoint("pool.move.published")
	if !moved {
		p.wipe(dst, j, number)
		p.table.drop(dst, j, c)
	}
	k.settle(p.table, dst, c)
	return moved
}
