package pool

import "fmt"

// Free gives up the n bytes stored at a place. No word names the place any
// more, and nobody reads it. It panics when there is no such object.
func (p *Pool) Free(pl Place, n int) {
	if !p.geo.stores(n) || uint64(pl) >= uint64(len(p.mem))/granule {
		panic(fmt.Sprintf("pool: free: no place %d of %d bytes", pl, n))
	}
	number := p.geo.classOf(n)
	c := &p.geo.classes[number]
	r, i := p.table.at(uint64(pl)*granule, number, c)
	s := p.lockSlab(r)
	s.bytes -= int64(n)
	if number == p.geo.hugeClass() {
		s.huge--
	}
	p.forget(s, r, i, number)
	s.mu.Unlock()
}

// lockSlab locks the slab that has zspage r, of which an object is alive.
func (p *Pool) lockSlab(r uint32) *slab {
	d := &p.table.runs[r]
	for {
		id := d.slab.Load()
		s := &p.slabs[id]
		s.mu.Lock()
		if d.slab.Load() == id {
			return s
		}
		s.mu.Unlock()
	}
}

// forget frees object i of zspage r, and the zspage when it was the last.
func (p *Pool) forget(s *slab, r, i uint32, number uint8) (released bool) {
	k, c := &s.classes[number], &p.geo.classes[number]
	p.table.drop(r, i, c)
	k.objects--
	s.objects--
	if p.table.runs[r].objects == 0 {
		p.release(s, r, number)
		return true
	}
	if k.open != r {
		k.settle(p.table, r, c)
	}
	return false
}
