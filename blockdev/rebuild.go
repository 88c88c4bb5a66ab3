package blockdev

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/zramfs/zramfs/internal/shm"
	"github.com/zramfs/zramfs/pool"
	"github.com/zramfs/zramfs/stable"
)

// adoptDisk makes a disk over a region that an earlier generation left: the
// layout comes from its header, everything derived from its slot table. It
// starts no goroutines.
func adoptDisk(r *shm.Region, o options) (*disk, error) {
	l, err := readLayout(r.Bytes(0, PageSize), r.Size())
	if err != nil {
		return nil, err
	}
	d, err := openDisk(r, l, o)
	if err != nil {
		return nil, err
	}
	if err := d.rebuild(); err != nil {
		return nil, errors.Join(err, d.pool.Close())
	}
	return d, nil
}

// rebuild makes the derived state from the slot words: the pool's descriptors,
// the frames in use, the gauges. No request runs meanwhile. A word that fails
// its check keeps its slot unreadable and claims nothing.
//
// Everybody waits for this, so the pool clears its descriptors and looks for its
// pages while the slots are settled, and only then takes up what they name.
func (d *disk) rebuild() error {
	was := sumLanes(d.lanes)
	if err := d.table.absent(d.region, d.layout, func(slot uint64) {
		d.table.ensure(slot)
		d.lanes[0].corrupt.Add(1)
	}); err != nil {
		return fmt.Errorf("rebuild the bitmap of the slot table: %w", err)
	}
	settled := make(chan struct{})
	var err error
	var thread sync.WaitGroup
	thread.Go(func() {
		err = d.pool.Rebuild(func(yield func(pool.Object) bool) {
			<-settled
			d.objects(yield)
		})
	})
	holds := d.settle(settled, &thread)
	var damage *pool.Damage
	if errors.As(err, &damage) {
		for _, o := range damage.Objects {
			slot := uint64(o.Owner)
			holds.count(d.table.load(slot), slot, -1)
			d.table.store(slot, lostWord)
			holds.count(lostWord, slot, 1)
		}
		d.lanes[0].corrupt.Add(int64(len(damage.Objects)))
	} else if err != nil {
		return fmt.Errorf("rebuild the pool: %w", err)
	}
	d.account.used.Add(d.pool.Stats().Pages)
	d.account.raise(d.account.used.Load())
	holds.objects = d.pool.Stats().Objects
	d.reclaimed = max(0, was.objects-holds.objects)
	recount(d.lanes, holds)
	now := sumLanes(d.lanes)
	d.damaged = now.corrupt - was.corrupt
	d.verify.total.Store(now.pages)
	return nil
}

// settle does what the words ask for beside the pool, says so, and waits for the
// thread that does the pool, even if it dies itself at a crash point. It gives
// what the table holds.
func (d *disk) settle(settled chan<- struct{}, thread *sync.WaitGroup) (holds sums) {
	defer thread.Wait()
	defer close(settled)
	for first, words := range d.table.pages {
		for i := range words {
			w := word(atomic.LoadUint64(&words[i]))
			if w == 0 {
				continue
			}
			slot := first + uint64(i)
			if (w.state() != stored && w.state() != huge || w.has(flagPP)) && w.sound(slot) {
				d.rebuildSlot(slot, w)
				w = d.table.load(slot)
			}
			holds.count(w, slot, 1)
		}
	}
	if d.frames != nil {
		d.frames.WipeFree()
	}
	return holds
}

// rebuildSlot settles what a death left in a slot, and takes its frame.
func (d *disk) rebuildSlot(slot uint64, w word) {
	if w.has(flagPP) {
		w &^= flagPP
		d.table.store(slot, w)
	}
	switch {
	case w.state() == staged:
		fr := stable.Frame(w.place())
		if w.place() >= maxFrames || !d.frames.Claim(fr, uint32(slot)) {
			d.table.store(slot, lostWord)
			d.lanes[0].corrupt.Add(1)
			return
		}
		d.account.used.Add(1)
		d.frames.Stage(fr, int(slot)%len(d.lanes))
	case w.state() == backed:
		d.rebuildBacked(slot, w)
	case w.inTable() && w.size() == sameReplace:
		// The old element or the new one is there; its check is what is missing.
		e, _ := d.table.element(slot, w)
		d.table.store(slot, sameWord(slot, e)|w&(flagIdle|flagIncompressible))
	}
}

// objects yields every object that a sound word names.
func (d *disk) objects(yield func(pool.Object) bool) {
	for first, words := range d.table.pages {
		for i := range words {
			w := word(atomic.LoadUint64(&words[i]))
			if s := w.state(); s != stored && s != huge {
				continue
			}
			slot := first + uint64(i)
			if w.sound(slot) && !yield(pool.Object{Owner: uint32(slot), Place: poolPlace(w), Size: w.size()}) {
				return
			}
		}
	}
}

// Move lets compaction publish an object's new place, if the slot is free now
// and its word still names the old one. It implements pool.Mover.
func (d *disk) Move(owner uint32, from, to pool.Place) bool {
	slot := uint64(owner)
	if slot >= d.table.slots() || !d.table.tryLock(slot) {
		return false
	}
	defer d.table.unlock(slot)
	w := d.table.load(slot)
	if s := w.state(); (s != stored && s != huge) || !w.sound(slot) || poolPlace(w) != from {
		return false
	}
	d.table.store(slot, w&^(maxPlace<<placeShift)|word(to)<<placeShift)
	return true
}
