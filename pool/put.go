package pool

import (
	"encoding/binary"
	"hash/crc32"

	"github.com/zramfs/zramfs/internal/invariants"
)

// ownZspage is how many zspages per slab a class must have for each slab to
// fill one of its own.
const ownZspage = 16

// Put stores a copy of data, which is 1 to HugeSize-1 bytes or a whole page,
// for owner, through the slab of one stream. The sum kept with it starts from
// seed. The object is complete when Put returns; nothing else changed if it
// returns an error: ErrNoRoom, ErrLimit, ErrFull, ErrSize.
func (p *Pool) Put(slab int, owner, seed uint32, data []byte) (Place, error) {
	if !p.geo.stores(len(data)) {
		return 0, ErrSize
	}
	number := p.geo.classOf(len(data))
	c := &p.geo.classes[number]
	header := uint64(crc32.Update(seed, p.poly, data))<<32 | uint64(owner)
	s := &p.slabs[slab]
	s.lock()
	k := &s.classes[number]
	r := k.open
	if r == none {
		var err error
		if r, err = p.refill(s, number); err != nil {
			s.unlock()
			return 0, err
		}
	}
	off := uint64(r)*PageSize + uint64(p.table.claim(r, c)*c.size)
	// The object is written under the mutex: compaction must not copy it half
	// written and then find its owner's word, published in between, to be right.
	if number == p.geo.hugeClass() {
		p.writeHuge(r, header, data)
		s.huge++
	} else {
		p.write(off, header, data)
	}
	if full := uint32(p.table.runs[r].objects) == c.objects; full == (k.open == r) {
		if full {
			r = none
		}
		k.fill(r)
	}
	k.objects++
	s.objects++
	s.bytes += int64(len(data))
	s.unlock()
	return Place(off / granule), nil
}

func (p *Pool) write(off, header uint64, data []byte) {
	b := p.mem[off:][:HeaderSize+len(data)]
	invariants.CrashPoint("pool.put.begin")
	invariants.Copy("pool.put.half", b[HeaderSize:], data)
	invariants.CrashPoint("pool.put.bytes")
	binary.LittleEndian.PutUint64(b, header)
	invariants.CrashPoint("pool.put.header")
}

func (p *Pool) writeHuge(page uint32, header uint64, data []byte) {
	invariants.CrashPoint("pool.huge.begin")
	invariants.Copy("pool.huge.half", p.mem[uint64(page)*PageSize:][:PageSize], data)
	invariants.CrashPoint("pool.huge.bytes")
	binary.LittleEndian.PutUint64(p.side[uint64(page)*HeaderSize:], header)
	invariants.CrashPoint("pool.huge.side")
}

// refill finds a zspage with free objects for s, which is locked, and takes it
// out of any list: its own fullest, another slab's, a new one, and at last one
// that another slab is filling.
func (p *Pool) refill(s *slab, number uint8) (uint32, error) {
	k := &s.classes[number]
	if r := k.best(); r != none {
		k.unlink(p.table, r)
		return r, nil
	}
	if p.geo.classes[number].objects == 1 {
		return p.grow(s, number)
	}
	if r := p.steal(s, number, offersPartial); r != none {
		return r, nil
	}
	// Where a class has few zspages the streams share the one that is being
	// filled: one each would be a good part of the class.
	rare := p.zspages[number].Load() < int64(len(p.slabs))*ownZspage
	if rare {
		if r := p.steal(s, number, offersOpen); r != none {
			return r, nil
		}
	}
	r, err := p.grow(s, number)
	if err != nil && !rare {
		if r := p.steal(s, number, offersOpen); r != none {
			return r, nil
		}
	}
	return r, err
}

// steal takes a zspage from a slab that nobody holds: a partly filled one, or
// the one that the other is filling.
func (p *Pool) steal(s *slab, number uint8, what uint32) uint32 {
	for i := 1; i < len(p.slabs); i++ {
		o := &p.slabs[(int(s.id)+i)%len(p.slabs)]
		k := &o.classes[number]
		if k.offers.Load()&what == 0 || !o.tryLock() {
			continue
		}
		r := k.best()
		if r != none {
			k.unlink(p.table, r)
		} else if what == offersOpen && k.open != none {
			r = k.open
			k.fill(none)
		}
		if r != none {
			p.hand(r, number, o, s)
			o.unlock()
			return r
		}
		o.unlock()
	}
	return none
}

// grow makes a zspage of free pages.
func (p *Pool) grow(s *slab, number uint8) (uint32, error) {
	c := &p.geo.classes[number]
	if !p.account.Take(int64(c.pages)) {
		return none, ErrLimit
	}
	r, wake, err := p.arena.take(c.pages)
	if wake {
		p.rouse()
	}
	if err != nil {
		p.account.Give(int64(c.pages))
		return none, err
	}
	p.table.make(r, number, c, s.id)
	s.classes[number].zspages++
	p.zspages[number].Add(1)
	return r, nil
}
