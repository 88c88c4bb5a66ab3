package pool

import (
	"fmt"

	"github.com/zramfs/zramfs/internal/invariants"
)

// Free gives up the n bytes stored at a place. No word names the place any
// more, and nobody reads it. ErrCorrupt, and nothing is changed, if there is no
// such object: the word was damaged.
func (p *Pool) Free(pl Place, n int) error { return p.free(pl, n, false) }

// Wipe is Free and leaves zeroes where the bytes were: who discards a page
// wants its secrets gone, while the bytes of an overwritten one may wait for
// the next object.
func (p *Pool) Wipe(pl Place, n int) error { return p.free(pl, n, true) }

func (p *Pool) free(pl Place, n int, wipe bool) error {
	if !p.geo.stores(n) || uint64(pl) >= uint64(len(p.mem))/granule {
		return fmt.Errorf("pool: free: no place %d of %d bytes: %w", pl, n, ErrCorrupt)
	}
	number := p.geo.classOf(n)
	c := &p.geo.classes[number]
	r, i, ok := p.table.at(uint64(pl)*granule, number, c)
	if !ok {
		return fmt.Errorf("pool: free: place %d is not one of %d bytes: %w", pl, n, ErrCorrupt)
	}
	s := p.lockSlab(r)
	defer s.unlock()
	if !p.table.alive(r, i, number, c) {
		return fmt.Errorf("pool: free: no object of %d bytes at place %d: %w", n, pl, ErrCorrupt)
	}
	s.bytes -= int64(n)
	if number == p.geo.hugeClass() {
		s.huge--
	}
	if wipe {
		p.wipe(r, i, number)
	}
	p.forget(s, r, i, number)
	return nil
}

// wipe zeroes object i of zspage r, its header too. The zspage's slab is locked
// and no word names the object.
func (p *Pool) wipe(r, i uint32, number uint8) {
	c := &p.geo.classes[number]
	invariants.CrashPoint("pool.wipe.begin")
	invariants.Clear("pool.wipe.half", p.mem[uint64(r)*PageSize+uint64(i*c.size):][:c.size])
	if number == p.geo.hugeClass() {
		invariants.CrashPoint("pool.wipe.side")
		clear(p.side[uint64(r)*HeaderSize:][:HeaderSize])
	}
	invariants.CrashPoint("pool.wipe.end")
}

// lockSlab locks the slab that has zspage r, of which an object is alive.
func (p *Pool) lockSlab(r uint32) *slab {
	d := &p.table.runs[r]
	for {
		id := d.slab.Load()
		s := &p.slabs[id]
		s.lock()
		if d.slab.Load() == id {
			return s
		}
		s.unlock()
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
