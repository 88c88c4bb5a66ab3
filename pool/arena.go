package pool

import (
	"sync"

	"github.com/zramfs/zramfs/internal/invariants"
)

// MaxArena is the largest arena in bytes: what a Place reaches.
const MaxArena = granule << PlaceBits

// arena hands out runs of neighbouring pages of one chunk, first fit from the
// lowest address, so that high chunks empty and can be given back.
//
// The reserve is counted in groups: 8 free pages that begin at a multiple of 8
// serve a zspage of any class, while as many free pages in pieces may serve
// none. Pieces are filled by first fit, or are waste. A group is committed
// whole, so that pieces are not committed as long as there are groups.
type arena struct {
	memory Memory          // immutable
	beside Memory          // immutable; the side array
	store  *derived[chunk] // immutable; holds chunks
	low    int64           // immutable; pages of reserve at which to wake, at most
	high   int64           // immutable; pages of reserve to commit up to, at most
	room   func() int64    // immutable; pages that the account lets be taken

	mu        sync.Mutex
	chunks    []chunk                // mu
	fits      [MaxChain + 1]chunkSet // mu; [n]: chunks with n free pages in a row, n >= 1
	solid     chunkSet               // mu; chunks with a solid group
	ragged    chunkSet               // mu; chunks with free pages outside solid groups
	bare      chunkSet               // mu; chunks with a group without used pages, not solid
	voids     chunkSet               // mu; chunks with void pages
	committed int64                  // mu; pages
	free      int64                  // mu; pages
	reserve   int64                  // mu; pages in solid groups
	starved   uint32                 // mu; pages in a row that a take missed with no group left
	punching  bool                   // mu; from wasteful on, down to the target
	commits   int64                  // mu; pages ever committed
	punches   int64                  // mu; pages ever punched
}

// mostShared is how large the list of chunks may be in shared memory, where
// reading what was never written takes a page. Who looks for chunks in use
// reads all of it.
const mostShared = 256 << 10

func newArena(memory, beside, scratch Memory, pages, lowBytes, highBytes int64, room func() int64) (*arena, error) {
	const group = groupPages * PageSize
	low := max(1, (lowBytes+group-1)/group) * groupPages
	high := max(low, (highBytes+group-1)/group*groupPages)
	a := &arena{memory: memory, beside: beside, low: low, high: high, room: room}
	n := pages / chunkPages
	before := derivedBytes[run](pages) + derivedBytes[uint64](pages*wordsByPage) // the table's
	if derivedBytes[chunk](n) > mostShared {
		scratch = nil
	}
	var err error
	if a.store, err = newDerived[chunk](n, scratch, before); err != nil {
		return nil, err
	}
	a.chunks = a.store.all
	a.initSets(int(n))
	return a, nil
}

// populate commits what describes chunk i.
func (a *arena) populate(i int) error { return a.store.populate(int64(i), 1) }

func (a *arena) initSets(n int) {
	for i := 1; i <= MaxChain; i++ {
		a.fits[i] = newChunkSet(n, false)
	}
	a.solid, a.ragged = newChunkSet(n, false), newChunkSet(n, false)
	a.bare, a.voids = newChunkSet(n, true), newChunkSet(n, true)
}

func (a *arena) close() error { return a.store.close() }

func (a *arena) lock() {
	invariants.Acquire(invariants.RankArena)
	a.mu.Lock()
}

func (a *arena) unlock() {
	invariants.Release(invariants.RankArena)
	a.mu.Unlock()
}

// take makes n free pages in a row used, 1 <= n <= MaxChain. wake: the reserve
// is below its low mark and can be filled, or pages are missing.
func (a *arena) take(n uint32) (page uint32, wake bool, err error) {
	a.lock()
	defer a.unlock()
	i := a.fits[n].first()
	if i < 0 {
		err = a.missing(n)
		return 0, err == ErrNoRoom, err
	}
	c := &a.chunks[i]
	free := c.free()
	at := free.stretches(uint(n))
	bit := uint32(at.first())
	c.used.setSpan(bit, n)
	a.update(i)
	return uint32(i)*chunkPages + bit, a.hungry(), nil
}

// missing says why n pages in a row are not there.
func (a *arena) missing(n uint32) error {
	if !a.bare.empty() {
		return ErrNoRoom
	}
	if _, m := a.gap(n); m.empty() {
		return ErrFull
	}
	a.starved = n
	return ErrNoRoom
}

// gap finds n pages in a row that are not used, some of them void: the chunk
// and which are void. It looks at every chunk and so is for an arena that is
// nearly used up.
func (a *arena) gap(n uint32) (int, pageMap) {
	for i := range a.chunks {
		c := &a.chunks[i]
		if !a.voids.has(i) {
			continue
		}
		var unused, m pageMap
		for w := range unused {
			unused[w] = ^c.used[w]
		}
		at := unused.stretches(uint(n))
		if bit := at.first(); bit >= 0 {
			m.setSpan(uint32(bit), n)
			void := c.void()
			for w := range m {
				m[w] &= void[w]
			}
			return i, m
		}
	}
	return 0, pageMap{}
}

// give makes n used pages free.
func (a *arena) give(page, n uint32) (wake bool) {
	a.lock()
	defer a.unlock()
	i := int(page / chunkPages)
	a.chunks[i].used.clearSpan(page%chunkPages, n)
	a.update(i)
	return a.wasteful()
}

// leastTarget is how many pages of reserve are kept though the account has no
// room: pages that are given back may lie in pieces that serve no large zspage.
const leastTarget = 8 * groupPages

// target is how many pages of reserve to commit up to: what the account lets be
// taken, at most high. Near a limit that the machine has no memory for, whoever
// committed more would take it from those whose pages are to be stored.
func (a *arena) target() int64 {
	room := a.room()
	if room >= a.high {
		return a.high
	}
	return min(a.high, max(room+groupPages-1, leastTarget)/groupPages*groupPages)
}

// hungry: Maintain could commit pages, and should soon.
func (a *arena) hungry() bool {
	low := min(a.low, a.target())
	return a.reserve < low && (!a.bare.empty() || a.free < low && !a.voids.empty())
}

// wasteful: Maintain should give pages back.
func (a *arena) wasteful() bool {
	target := a.target()
	return a.free > target+max(target/2, groupPages)
}

// holds says without a lock whether the bytes [off, off+n) of the arena, n > 0,
// are in committed pages. An object lies in one or two of them.
func (a *arena) holds(off, n uint64) bool {
	first, last := uint32(off/PageSize), uint32((off+n-1)/PageSize)
	if uint64(last) >= uint64(len(a.chunks))*chunkPages {
		return false
	}
	return a.chunks[first/chunkPages].holds(first) && a.chunks[last/chunkPages].holds(last)
}

// update brings sets and sums up to date after a change of chunk i's maps.
func (a *arena) update(i int) {
	c := &a.chunks[i]
	was, now := c.tally, c.count()
	c.tally = now
	for n := was.fit + 1; n <= now.fit; n++ {
		a.fits[n].set(i, true)
	}
	for n := was.fit; n > now.fit; n-- {
		a.fits[n].set(i, false)
	}
	if (was.solid == 0) != (now.solid == 0) {
		a.solid.set(i, now.solid != 0)
	}
	if (was.ragged() == 0) != (now.ragged() == 0) {
		a.ragged.set(i, now.ragged() != 0)
	}
	const all = chunkPages / groupPages
	if (was.shut == all) != (now.shut == all) {
		a.bare.set(i, now.shut != all)
	}
	if (was.committed == chunkPages) != (now.committed == chunkPages) {
		a.voids.set(i, now.committed != chunkPages)
	}
	a.committed += int64(now.committed) - int64(was.committed)
	a.free += int64(now.free) - int64(was.free)
	a.reserve += (int64(now.solid) - int64(was.solid)) * groupPages
}
