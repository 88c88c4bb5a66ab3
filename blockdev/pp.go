package blockdev

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
)

// Post-processing looks for pages that could be kept for less, and replaces
// what they are stored as. It never stands in the way of I/O:
//
//   - a page is marked under its slot's lock, worked on outside of it, and
//     published under it again, only if the mark is still there;
//   - a read, a write or a discard takes the mark away and so wins, whatever the
//     pass has done meanwhile;
//   - a death leaves marks, which Rebuild clears, and objects that no word names,
//     which it gives back.
//
// There is one pass at a time for each disk. It keeps nothing per page: a walk
// over the table counts the candidates by size, and one walk for each size that
// there is visits them, largest first.

// maxPriority is how many compression algorithms a disk has beside the primary.
const maxPriority = 3

// ppBucket is the step of sizes in which candidates are visited, in bytes.
const ppBucket = 64

// postprocess is the lock of passes.
type postprocess struct {
	mu sync.Mutex // held by the pass; above every other lock of the disk
}

// selector says which pages a pass is about: those for which everything that it
// asks holds. Pages that are empty, same-filled, staged, lost or on the backing
// device already never are.
type selector struct {
	idle, huge, incompressible bool

	minSize int    // stored bytes; 0: any
	before  uint32 // on the device's clock: last access before that; 0: any
	lo, hi  uint64 // slots from lo to below hi; hi 0: to the end

	below uint8 // compressed with an algorithm of a priority below that; 0: any
	tries bool  // leave out what no algorithm makes smaller
}

// takes says whether a slot's word and access time are what s is about.
func (d *disk) takes(s *selector, slot uint64, w word) bool {
	switch {
	case w.state() != stored && w.state() != huge, s.idle && !w.has(flagIdle), s.huge && w.state() != huge,
		s.incompressible && !w.has(flagIncompressible), w.size() < s.minSize,
		s.tries && w.has(flagIncompressible), s.below != 0 && d.priorityOf(w) >= s.below:
		return false
	}
	return s.before == 0 || atomic.LoadUint32(&d.table.atimes[slot]) < s.before
}

// beginPass makes the caller the disk's only pass until it calls end. It gives a
// context that ends with ctx and with the disk.
func (d *disk) beginPass(ctx context.Context) (_ context.Context, end context.CancelFunc, _ error) {
	if !d.pp.mu.TryLock() {
		return nil, nil, fmt.Errorf("recompress or writeback of this device runs already; wait for its end: %w", ErrAgain)
	}
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(d.ending, cancel)
	return ctx, func() {
		stop()
		cancel()
		d.pp.mu.Unlock()
	}, nil
}

// eachCandidate marks each page that sel is about, the largest first, and calls
// visit with its number and its word as it is in the table. visit runs without a
// lock. It ends what was begun with replacePP or unmarkPP, itself or later, and
// says whether there is more to do.
//
// A slot is visited once for each size that it has meanwhile, so that a mark
// tells which visit it is of: a page that was written again, and marked again at
// another size, is not what an earlier visit has begun with. The next call may
// mark a slot at the same size again; what was begun is ended before it.
//
// Caller has begun a pass. The error is ctx's.
func (d *disk) eachCandidate(ctx context.Context, sel selector, visit func(slot uint64, w word) (more bool)) error {
	if sel.hi == 0 || sel.hi > d.table.slots() {
		sel.hi = d.table.slots()
	}
	var sizes [PageSize/ppBucket + 1]int64
	if err := d.walk(ctx, &sel, func(_ uint64, w word) bool {
		sizes[w.size()/ppBucket]++
		return true
	}); err != nil {
		return err
	}
	for bucket := len(sizes) - 1; bucket >= 0; bucket-- {
		left := sizes[bucket]
		more := true
		if left == 0 {
			continue
		}
		if err := d.walk(ctx, &sel, func(slot uint64, w word) bool {
			if w.size()/ppBucket != bucket {
				return true
			}
			if w, more = d.markPP(slot, &sel, bucket); w != 0 {
				more = visit(slot, w)
			} else {
				more = true
			}
			left--
			return more && left > 0
		}); err != nil || !more {
			return err
		}
	}
	return nil
}

// walk calls f for each candidate as it is at the moment. f may take locks.
func (d *disk) walk(ctx context.Context, sel *selector, f func(slot uint64, w word) (more bool)) error {
	for slot := d.table.nextPresent(sel.lo); ; slot = d.table.nextPresent(slot) {
		hi := min(sel.hi, d.table.slots()) // the disk may have become smaller
		if slot >= hi {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		end := min((slot/slotsPerTablePage+1)*slotsPerTablePage, hi)
		for ; slot < end; slot++ {
			w := word(atomic.LoadUint64(&d.table.words[slot]))
			if w == 0 || !d.takes(sel, slot, w) {
				continue
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			if !f(slot, w) {
				return nil
			}
		}
	}
}

// markPP marks a slot if it is still a candidate, of a size in that bucket, and
// gives its word.
func (d *disk) markPP(slot uint64, sel *selector, bucket int) (w word, ok bool) {
	d.quiet.RLock()
	defer d.quiet.RUnlock()
	d.table.lock(slot)
	defer d.table.unlock(slot)
	w = d.table.load(slot)
	if !w.sound(slot) || !d.takes(sel, slot, w) || w.size()/ppBucket != bucket {
		return 0, false
	}
	d.table.store(slot, w|flagPP)
	return d.table.load(slot), true
}

// marked says whether a slot's word is still the one that a pass marked. What
// compaction has moved since is; so is what became idle. The place would tell
// nothing anyway, since another page of that slot may have come to lie there: that
// a pass never marks a slot again at one size with the earlier mark's work
// unpublished does. Caller holds the slot's lock.
func (d *disk) marked(slot uint64, was word) (now word, ok bool) {
	const moved = maxPlace<<placeShift | flagIdle
	now = d.table.load(slot)
	return now, now.has(flagPP) && now.sound(slot) && now&plainMask&^moved == was&plainMask&^moved
}

// replacePP publishes next in the place of the page that was marked as was, frees
// what that named, and counts. False: the page has changed, and next is the
// caller's still. The page is idle no more unless next says so.
//
// Caller read-holds quiet, from before next's object was put.
func (d *disk) replacePP(stream int, slot uint64, was, next word) bool {
	d.table.lock(slot)
	old, ok := d.marked(slot, was)
	if ok {
		d.table.store(slot, next&^flagPP)
		d.lanes[stream].move(old, next)
	}
	d.table.unlock(slot)
	if !ok {
		return false
	}
	d.release(stream, slot, old)
	return true
}

// unmarkPP takes the mark from a page that stays as it is, and sets and clears
// other flags of its word. False: the page has changed. Caller read-holds quiet.
func (d *disk) unmarkPP(slot uint64, was, set, clear word) bool {
	d.table.lock(slot)
	defer d.table.unlock(slot)
	now, ok := d.marked(slot, was)
	if ok {
		d.table.store(slot, now&^(flagPP|clear)|set)
	}
	return ok
}

// unmark is unmarkPP that holds quiet itself and leaves the flags.
func (d *disk) unmark(slot uint64, was word) bool {
	d.quiet.RLock()
	defer d.quiet.RUnlock()
	return d.unmarkPP(slot, was, 0, 0)
}

// readPP reads the whole page that was marked as was into dst, and leaves the
// marks as they are. False: the page has changed, or cannot be read; then it is
// marked no more. Caller read-holds quiet.
func (d *disk) readPP(stream int, slot uint64, was word, dst []byte) bool {
	d.pool.Touch(poolPlace(was), was.size()) // a fault must not happen under the slot's lock
	d.table.lock(slot)
	defer d.table.unlock(slot)
	now, ok := d.marked(slot, was)
	if !ok {
		return false
	}
	if err := d.readLocked(stream, slot, now, 0, dst); err != nil {
		d.lanes[stream].corrupt.Add(1)
		d.table.store(slot, now&^flagPP)
		return false
	}
	return true
}
