package blockdev

import (
	"sync/atomic"

	"github.com/zramfs/zramfs/pool"
)

// account is mem_used_total and its limit: pages of the pool and staged
// frames, the tables and the reserve apart.
//
// Invariant: with a limit, Take never lets used pass it. used may be above a
// limit that was lowered later; then nothing more is taken. While writes wait
// for room, the first that becomes free is kept for them: who comes later cannot
// take it before it is their turn.
type account struct {
	limit atomic.Int64 // pages; 0: none
	used  atomic.Int64 // pages
	lent  atomic.Int64 // pages beyond the limit, for who gives back more than it takes
	held  atomic.Int64 // pages of the limit that only a waiting write gets
	// waiters is how many writes wait for room under the limit.
	waiters atomic.Int64
	freed   func()        // immutable; called when there is room for one of them, under locks
	max     *atomic.Int64 // high-water mark of used since it was last reset; shared memory
}

// Take takes pages, or nothing and false.
func (a *account) Take(pages int64) bool { return a.take(pages, 0) }

// take is Take that leaves room for so many pages more.
func (a *account) take(pages, leave int64) bool {
	for {
		used := a.used.Load()
		now := used + pages
		if limit := a.limit.Load(); limit != 0 && now > limit-leave-a.held.Load()+a.lent.Load() {
			return false
		}
		if a.used.CompareAndSwap(used, now) {
			a.raise(now)
			return true
		}
	}
}

// Room implements pool.Account. What is held counts: it is for those who wait.
func (a *account) Room() int64 {
	limit := a.limit.Load()
	if limit == 0 {
		return pool.MaxRoom
	}
	return max(limit+a.lent.Load()-a.used.Load(), 0)
}

// Give gives pages back.
func (a *account) Give(pages int64) {
	used := a.used.Add(-pages)
	if a.waiters.Load() > 0 && used <= a.limit.Load()-ladderHeld {
		a.freed()
	}
}

// resetMax begins the high-water mark anew.
func (a *account) resetMax() {
	a.max.Store(0)
	a.raise(a.used.Load())
}

func (a *account) raise(now int64) {
	for {
		top := a.max.Load()
		if now <= top || a.max.CompareAndSwap(top, now) {
			return
		}
	}
}
