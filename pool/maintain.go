package pool

import (
	"errors"
	"fmt"

	"github.com/zramfs/zramfs/internal/invariants"
)

// CommitStep is the most bytes of the arena that a step of Maintain commits.
const CommitStep = 256 << 10

const (
	// commitStep is how many pages a step commits. On a machine that is short of
	// memory each of them may take long, and who waits for one does not want to
	// wait for all of the reserve.
	commitStep = CommitStep / PageSize
	// punchCalls bounds the system calls of a step that gives pages back.
	punchCalls = 64
)

// Maintain does one bounded step of what the I/O path must not do: commit at
// most 256 KiB while the reserve is below its target, or give back at most
// 2 MiB of waste. more: call again. An error of the memory leaves the pages as
// they were; the caller should wait before it calls again.
func (p *Pool) Maintain() (more bool, err error) {
	p.maintenance.Lock()
	defer p.maintenance.Unlock()
	a := p.arena
	if i, m := a.planCommit(); !m.empty() {
		if err := p.commit(i, m); err != nil {
			return false, err
		}
	} else if i, m := a.planPunch(); !m.empty() {
		if err := p.punch(i, m); err != nil {
			return false, err
		}
	}
	return a.pending(), nil
}

// pending: another step would do something.
func (a *arena) pending() bool {
	a.lock()
	defer a.unlock()
	target := a.target()
	return a.starved != 0 || a.reserve < target && !a.bare.empty() ||
		a.free < target && !a.voids.empty() || a.punching || a.wasteful()
}

// planCommit chooses void pages of one chunk, none if the reserve is filled.
// They stay void until maintenance, which the caller holds, commits them.
func (a *arena) planCommit() (int, pageMap) {
	a.lock()
	defer a.unlock()
	target := a.target()
	if i := a.bare.first(); i >= 0 {
		a.starved = 0 // a group serves whoever starves
		if a.reserve >= target {
			return 0, pageMap{}
		}
		c := &a.chunks[i]
		m := c.void()
		for w := range m {
			m[w] &= spread(groups(^c.used[w]))
		}
		m.keepFirst(int(min(target-a.reserve, commitStep)))
		return i, m
	}
	if n := a.starved; n != 0 {
		a.starved = 0
		return a.gap(n)
	}
	if i := a.voids.first(); i >= 0 && a.free < target {
		m := a.chunks[i].void()
		m.keepFirst(int(min(target-a.free, commitStep)))
		return i, m
	}
	return 0, pageMap{}
}

// commit makes the void pages m of chunk i free.
func (p *Pool) commit(i int, m pageMap) error {
	a, first := p.arena, uint32(i)*chunkPages
	invariants.CrashPoint("pool.commit.begin")
	// What describes a page is there before the page is.
	if err := errors.Join(p.table.populate(first, chunkPages), a.populate(i)); err != nil {
		return fmt.Errorf("pool: commit chunk %d: descriptors: %w", i, err)
	}
	if err := a.beside.Populate(SideBytes(int64(i)*ChunkSize), SideBytes(ChunkSize)); err != nil {
		return fmt.Errorf("pool: commit chunk %d: side array: %w", i, err)
	}
	invariants.CrashPoint("pool.commit.side")
	var done pageMap
	var err error
	for bit, n := m.next(0); n > 0; bit, n = m.next(bit + n) {
		off, size := int64(first+bit)*PageSize, int64(n)*PageSize
		if err = a.memory.Populate(off, size); err != nil {
			err = fmt.Errorf("pool: commit chunk %d: %w", i, err)
			// Some of these may be committed; they count as void, so give them
			// back. If that fails too they are committed again later, no harm.
			_ = a.memory.Punch(off, size)
			break
		}
		done.setSpan(bit, n)
		invariants.CrashPoint("pool.commit.pages")
	}
	a.lock()
	defer a.unlock()
	c := &a.chunks[i]
	c.side = true
	c.commit(&done)
	a.commits += int64(done.len())
	a.update(i)
	return err
}

// planPunch chooses free pages of one chunk that are waste and makes them
// void, so that nobody takes them. The highest chunks come first; groups go
// only while the reserve is above its target.
func (a *arena) planPunch() (int, pageMap) {
	a.lock()
	defer a.unlock()
	target := a.target()
	a.punching = a.wasteful() || a.punching && a.free > target
	if !a.punching {
		return 0, pageMap{}
	}
	return a.evict(target)
}

// evict makes free pages of one chunk void until target pages are free.
func (a *arena) evict(target int64) (int, pageMap) {
	excess := a.free - target
	i, pick := a.solid.last(), func(free uint64) uint64 { return spread(groups(free)) }
	if a.reserve <= target {
		i, pick = a.ragged.last(), func(free uint64) uint64 { return free &^ spread(groups(free)) }
	} else {
		excess = min(excess, a.reserve-target)
	}
	if i < 0 || excess <= 0 {
		return 0, pageMap{}
	}
	m := a.chunks[i].free()
	for w := range m {
		m[w] = pick(m[w])
	}
	m.keepLast(int(excess))
	m.keepRows(punchCalls)
	a.chunks[i].decommit(&m)
	a.update(i)
	return i, m
}

// punch gives back the pages m of chunk i, which evict chose, and the side
// array's page when the chunk is void. What cannot be given back is free again.
func (p *Pool) punch(i int, m pageMap) error {
	a, first := p.arena, uint32(i)*chunkPages
	var err error
	left := m
	invariants.CrashPoint("pool.punch.begin")
	for bit, n := m.next(0); n > 0; bit, n = m.next(bit + n) {
		if err = a.memory.Punch(int64(first+bit)*PageSize, int64(n)*PageSize); err != nil {
			err = fmt.Errorf("pool: give back pages of chunk %d: %w", i, err)
			break
		}
		left.clearSpan(bit, n)
		invariants.CrashPoint("pool.punch.pages")
	}
	if err == nil {
		err = p.punchSide(i)
	}
	a.lock()
	defer a.unlock()
	c := &a.chunks[i]
	c.commit(&left)
	a.punches += int64(m.len() - left.len())
	a.update(i)
	return err
}

// punchSide gives back the side array's page of chunk i when the chunk is void.
// Only maintenance commits, so the chunk stays void meanwhile. After an error
// the page is still there, until the chunk is void the next time.
func (p *Pool) punchSide(i int) error {
	a := p.arena
	a.lock()
	c := &a.chunks[i]
	idle := c.side && c.tally.committed == 0
	a.unlock()
	if !idle {
		return nil
	}
	if err := a.beside.Punch(SideBytes(int64(i)*ChunkSize), SideBytes(ChunkSize)); err != nil {
		return fmt.Errorf("pool: give back side array of chunk %d: %w", i, err)
	}
	invariants.CrashPoint("pool.punch.side")
	a.lock()
	defer a.unlock()
	c.side = false
	return nil
}

// keepRows keeps the n highest rows of bits.
func (m *pageMap) keepRows(n int) {
	rows := 0
	for i := uint32(chunkPages); i > 0; i-- {
		if m.has(i-1) && (i == chunkPages || !m.has(i)) {
			rows++
		}
		if rows > n {
			m[(i-1)/64] &^= 1 << ((i - 1) % 64)
		}
	}
}
