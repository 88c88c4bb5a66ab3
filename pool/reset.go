package pool

import "fmt"

// Reset forgets all objects and makes every page void. After an error there
// are no objects, some pages are still committed, and Reset may be repeated.
func (p *Pool) Reset() error {
	p.maintenance.Lock()
	defer p.maintenance.Unlock()
	p.empties()
	for {
		p.arena.lock()
		i, m := p.arena.evict(0)
		p.arena.unlock()
		if m.empty() {
			break
		}
		if err := p.punch(i, m); err != nil {
			return fmt.Errorf("pool: reset: %w", err)
		}
	}
	for i := range p.arena.chunks {
		// What an error left behind; punch gave back the others.
		if err := p.punchSide(i); err != nil {
			return fmt.Errorf("pool: reset: %w", err)
		}
	}
	// Every chunk is void and every descriptor zero: they need no memory.
	if err := p.giveBack(); err != nil {
		return fmt.Errorf("pool: reset: %w", err)
	}
	return nil
}

// empties makes every used page free.
func (p *Pool) empties() {
	a := p.arena
	var used int64
	for i := range a.chunks {
		c := &a.chunks[i]
		if c.used.empty() {
			continue
		}
		used += int64(c.used.len())
		first := uint32(i) * chunkPages
		clear(p.table.runs[first:][:chunkPages])
		c.used = pageMap{}
		a.update(i)
	}
	p.initSlabs()
	p.account.Give(used)
}
