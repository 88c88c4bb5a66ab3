package blockdev

import (
	"math/bits"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/zramfs/zramfs/internal/invariants"
	"github.com/zramfs/zramfs/internal/shm"
)

// stripes is how many locks share the slots. Neighbours lie on different
// stripes, so two halves of a long request rarely meet.
const stripes = 1024

// table is the slot table in shared memory and the locks of its slots.
//
// Invariants: a slot's word, element and access time change only under the
// slot's lock. A page of the table exists if its presence bit is set, and the
// bit is set before anything is stored in the page: reading the hole of a
// shared mapping would allocate it.
type table struct {
	size     atomic.Uint64 // slots; changed by resize only, see there
	presence []uint64      // shared; one bit per page of words, set atomically, never cleared
	words    []uint64      // shared
	atimes   []uint32      // shared; seconds of the device's clock
	elements []uint64      // shared; elements that are not one 32-bit pattern

	locks [stripes]stripe
}

type stripe struct {
	sync.Mutex
	_ [56]byte // a cache line each
}

func newTable(r *shm.Region, l layout) *table {
	n := int(l.words.n / 8)
	t := &table{
		presence: view[uint64](r, l.presence.off, int(l.presence.n/8)),
		words:    view[uint64](r, l.words.off, n),
		atimes:   view[uint32](r, l.atimes.off, int(l.capacity)),
		elements: view[uint64](r, l.elements.off, int(l.capacity)),
	}
	t.size.Store(l.slots)
	for i := range t.locks { // fresh memory, of which a reader's first lock would make a page
		if t.locks[i].TryLock() {
			t.locks[i].Unlock()
		}
	}
	return t
}

// view casts a range of the region to words that are accessed atomically.
func view[T uint32 | uint64](r *shm.Region, off int64, n int) []T {
	return unsafe.Slice((*T)(unsafe.Add(r.Base(), off)), n)
}

// slots is how many slots the disk has now. There is room in the tables for
// more, so an index that was below it once may always be looked at.
func (t *table) slots() uint64 { return t.size.Load() }

func (t *table) lock(slot uint64) {
	invariants.Acquire(invariants.RankSlot)
	t.locks[slot%stripes].Lock()
}

func (t *table) tryLock(slot uint64) bool {
	if !t.locks[slot%stripes].TryLock() {
		return false
	}
	invariants.Acquired(invariants.RankSlot)
	return true
}

func (t *table) unlock(slot uint64) {
	invariants.Release(invariants.RankSlot)
	t.locks[slot%stripes].Unlock()
}

// present says whether the slot's table page exists.
func (t *table) present(slot uint64) bool {
	page := slot / slotsPerTablePage
	return atomic.LoadUint64(&t.presence[page/64])&(1<<(page%64)) != 0
}

// load reads a slot's word; 0 where there is none, without touching the page.
func (t *table) load(slot uint64) word {
	if !t.present(slot) {
		return 0
	}
	return word(atomic.LoadUint64(&t.words[slot]))
}

// store publishes a slot's word: this is the commit. Caller holds the slot's
// lock.
func (t *table) store(slot uint64, w word) {
	t.ensure(slot)
	invariants.CrashPoint("table.store")
	atomic.StoreUint64(&t.words[slot], uint64(w.seal(slot)))
	invariants.CrashPoint("table.stored")
}

// ensure sets the presence bit of a slot's table page.
func (t *table) ensure(slot uint64) {
	page := slot / slotsPerTablePage
	p, bit := &t.presence[page/64], uint64(1)<<(page%64)
	if atomic.LoadUint64(p)&bit == 0 {
		invariants.CrashPoint("table.presence")
		atomic.OrUint64(p, bit)
	}
}

// absent yields each page of the words that is committed and not all zero while
// its presence bit is clear: the bit was damaged, since it is set first.
func (t *table) absent(r *shm.Region, l layout, yield func(slot uint64)) error {
	w, err := shm.NewWindow(r, l.words.off, l.words.n)
	if err != nil {
		return err
	}
	return w.Data(func(off, n int64) bool {
		for slot, end := uint64(off)/8, uint64(off+n)/8; slot < end; slot += slotsPerTablePage {
			if t.present(slot) {
				continue
			}
			for i := range uint64(slotsPerTablePage) {
				if atomic.LoadUint64(&t.words[slot+i]) != 0 {
					yield(slot)
					break
				}
			}
		}
		return true
	})
}

// warm loads what touch will need before a lock, which orders memory, stands
// between two cache misses that can overlap.
func (t *table) warm(slot uint64) { atomic.LoadUint32(&t.atimes[slot]) }

// atime is when a slot was last accessed, on the device's clock.
func (t *table) atime(slot uint64) uint32 { return atomic.LoadUint32(&t.atimes[slot]) }

// touch notes the time of an access. Caller holds the slot's lock.
func (t *table) touch(slot uint64, now uint32) {
	if a := &t.atimes[slot]; atomic.LoadUint32(a) != now {
		invariants.CrashPoint("table.touch")
		atomic.StoreUint32(a, now)
	}
}

// noSlot is beyond every disk, whatever size it gets meanwhile.
const noSlot = ^uint64(0)

// nextPresent finds the first slot at or after from whose table page exists;
// noSlot if there is none. The cost is one bit per absent table page.
func (t *table) nextPresent(from uint64) uint64 {
	slots := t.slots()
	if from >= slots {
		return noSlot
	}
	page := from / slotsPerTablePage
	if t.present(from) {
		return from
	}
	page++
	for i, end := page/64, (slots+64*slotsPerTablePage-1)/(64*slotsPerTablePage); i < end; i++ {
		w := atomic.LoadUint64(&t.presence[i])
		if i == page/64 {
			w &= ^uint64(0) << (page % 64)
		}
		if w == 0 {
			continue
		}
		if next := (i*64 + uint64(bits.TrailingZeros64(w))) * slotsPerTablePage; next < slots {
			return next
		}
		break
	}
	return noSlot
}

// each yields every slot that is not empty, ascending. Words may change
// meanwhile; a caller that minds holds the device quiet.
func (t *table) each(yield func(slot uint64, w word) bool) { t.eachFrom(0)(yield) }

// eachFrom is each, from a slot on.
func (t *table) eachFrom(first uint64) func(yield func(slot uint64, w word) bool) {
	return func(yield func(slot uint64, w word) bool) { t.eachOf(first, yield) }
}

func (t *table) eachOf(first uint64, yield func(slot uint64, w word) bool) {
	for slot := t.nextPresent(first); slot < t.slots(); slot = t.nextPresent(slot) {
		end := min((slot/slotsPerTablePage+1)*slotsPerTablePage, t.slots())
		for ; slot < end; slot++ {
			if w := word(atomic.LoadUint64(&t.words[slot])); w != 0 && !yield(slot, w) {
				return
			}
		}
	}
}

// pages yields the words of each table page that exists, ascending, and the slot
// of the first: for who looks at all of them and counts the time. Words are to be
// read atomically.
func (t *table) pages(yield func(first uint64, words []uint64) bool) {
	for slot := t.nextPresent(0); slot < t.slots(); {
		end := min((slot/slotsPerTablePage+1)*slotsPerTablePage, t.slots())
		if !yield(slot, t.words[slot:end]) {
			return
		}
		slot = t.nextPresent(end)
	}
}
