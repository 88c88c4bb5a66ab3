package blockdev

import (
	"context"
	"fmt"

	"github.com/zramfs/zramfs/internal/invariants"
)

// Bounds on how many blocks are written at once; the default is the kernel's.
const (
	defaultBatch = 32
	maxBatch     = 1024
)

// writebackOptions say what a pass writes back.
type writebackOptions struct {
	selectors []selector // one after the other
	maxPages  int64      // and blocks; 0: no bound
}

// writebackResult is what a pass did.
type writebackResult struct {
	pages  int64 // on the device now, in RAM no more
	freed  int64 // bytes of objects in RAM
	blocks int64 // written
}

// batch is a run of blocks that is being filled. It belongs to the pass.
type batch struct {
	buf     []byte // whole blocks; nil: a write that was given up has it
	first   uint64 // block
	blocks  int    // claimed; 0: no run
	fill    int    // bytes
	records []packedPage

	charged int    // blocks that are charged to the budget
	change  uint64 // which budget that was: backing.change
}

// packedPage is a page in a batch.
type packedPage struct {
	slot    uint64
	was     word // marked as
	next    word
	element uint64
}

// writebackPass writes pages to the backing device. Of an error of the device it
// tells at the end: the pages stay in RAM, and the pass goes on. It ends early
// with ErrNoSpace if the device is full, ErrBudget if no more may be written, and
// ctx's error.
func (d *disk) writebackPass(ctx context.Context, o writebackOptions) (res writebackResult, err error) {
	if d.back == nil {
		return res, fmt.Errorf("no backing device; store its path in backing_dev before disksize: %w", ErrNoDevice)
	}
	ctx, end, err := d.beginPass(ctx)
	if err != nil {
		return res, err
	}
	defer end()
	p := &writeback{d: d, ctx: ctx, options: o}
	for _, sel := range o.selectors {
		err = d.eachCandidate(ctx, sel, p.visit)
		p.flush() // the next may mark again what was written since
		if err != nil || p.stop != nil || p.enough() {
			break
		}
	}
	for _, e := range []error{err, p.stop, p.failed} {
		if e != nil {
			return p.res, e
		}
	}
	return p.res, nil
}

// writeback is a pass under way.
type writeback struct {
	d       *disk
	ctx     context.Context
	options writebackOptions
	res     writebackResult
	pending int64 // pages in the batch
	failed  error // of the device, the last
	stop    error // why there is no more to be written
}

// enough says that as many pages are on their way as are wanted. A page that changed
// while it was written is not there, and was written all the same, so that blocks
// count as well.
func (p *writeback) enough() bool {
	return p.options.maxPages != 0 && max(p.res.pages, p.res.blocks)+p.pending >= p.options.maxPages
}

// visit takes a marked page into the batch, and says whether the next may come.
func (p *writeback) visit(slot uint64, w word) bool {
	d, b := p.d, &p.d.back.batch
	packed := d.back.settings.Load().packed && w.state() == stored
	need := PageSize
	if packed {
		need = int(roundUp(int64(w.size()), awayUnit))
	}
	if b.blocks != 0 && b.fill+need > b.blocks*PageSize {
		p.flush()
	}
	for b.blocks == 0 {
		if p.stop = p.begin(); p.stop != nil {
			d.unmark(slot, w)
			return false
		}
		if b.blocks*PageSize < need { // never: a block holds any page
			panic("blockdev: a run of blocks without a block")
		}
	}
	d.quiet.RLock()
	defer d.quiet.RUnlock()
	at := b.fill
	place := b.first*(PageSize/awayUnit) + uint64(at/awayUnit)
	var next word
	if packed {
		next = makeWord(backed, w.params(), w.size(), place)
		if !d.copyPP(slot, w, b.buf[at:]) {
			return true
		}
	} else {
		next = makeWord(backed, 0, PageSize, place)
		if !d.readPP(int(slot)%len(d.lanes), slot, w, b.buf[at:][:PageSize]) {
			return true
		}
	}
	crc := d.crcOf(slot, next, b.buf[at:][:next.size()])
	clear(b.buf[at+next.size() : at+need])
	b.fill += need
	b.records = append(b.records, packedPage{slot, w, next, backedElement(slot, next, crc)})
	p.pending++
	return !p.enough()
}

// begin claims a run of blocks, as far as the budget goes.
func (p *writeback) begin() error {
	d := p.d
	b := &d.back.batch
	if err := p.ctx.Err(); err != nil {
		return err // a batch that was given up is not followed by another
	}
	most := p.allowed(d.back.settings.Load().batch)
	if most == 0 {
		return fmt.Errorf("writeback: the budget is used up; store another in writeback_limit: %w", ErrBudget)
	}
	if len(b.buf) < most*PageSize {
		b.buf = alignedBuffer(most * PageSize)
	}
	d.quiet.RLock()
	defer d.quiet.RUnlock()
	b.first, b.blocks = d.back.blocks.take(most)
	if b.blocks == 0 {
		p.refund(most)
		return fmt.Errorf("writeback: all %d blocks of the backing device are in use: %w", d.back.blocks.n, ErrNoSpace)
	}
	p.refund(most - b.blocks)
	b.fill, b.records = 0, b.records[:0]
	return nil
}

// allowed charges up to n blocks of the next batch to the budget.
func (p *writeback) allowed(n int) int {
	back := p.d.back
	b := &back.batch
	back.budget.Lock()
	defer back.budget.Unlock()
	b.charged, b.change = 0, back.change
	if !back.settings.Load().limited {
		return n
	}
	left := back.kept.budget.Load()
	if n = int(min(int64(n), left)); n <= 0 {
		return 0
	}
	invariants.CrashPoint("backed.budget")
	back.kept.budget.Store(left - int64(n))
	b.charged = n
	return n
}

// refund gives back what was charged for n blocks that were not written, unless
// there is another budget by now.
func (p *writeback) refund(n int) {
	b := &p.d.back.batch
	n = min(n, b.charged)
	b.charged -= n
	p.d.back.giveBack(n, b.change)
}

// giveBack gives n blocks back to the budget that they were charged to.
func (b *backing) giveBack(n int, change uint64) {
	b.budget.Lock()
	defer b.budget.Unlock()
	if n > 0 && change == b.change {
		b.kept.budget.Add(int64(n))
	}
}

// flush writes the batch and publishes its pages.
func (p *writeback) flush() {
	d, b := p.d, &p.d.back.batch
	if b.blocks == 0 {
		return
	}
	used := (b.fill + PageSize - 1) / PageSize
	d.unclaim(b.first+uint64(used), b.blocks-used, false)
	p.refund(b.blocks - used)
	b.blocks = 0
	p.pending = 0
	if used == 0 {
		return
	}
	buf := b.buf[:used*PageSize]
	clear(buf[b.fill:])
	seal(d.back.key, buf, b.first)
	err := p.write(buf, b.first)
	if err == nil {
		d.back.kept.writes.Add(int64(used))
		p.res.blocks += int64(used)
		for i := range b.records {
			p.publish(&b.records[i])
		}
	} else {
		p.failed = err
		if b.buf != nil { // else the device may write them yet
			p.refund(used)
		}
		for i := range b.records {
			d.unmark(b.records[i].slot, b.records[i].was)
		}
	}
	if b.buf != nil {
		d.unclaim(b.first, used, true)
	}
}

// write waits for the device, or for the end of the pass: then whoever waits on
// for the device gives the blocks back, and what they were charged if it fails.
func (p *writeback) write(buf []byte, first uint64) error {
	if err := p.ctx.Err(); err != nil {
		return err
	}
	d := p.d
	dev := d.back.dev
	done := make(chan error, 1)
	go func() {
		_, err := dev.WriteAt(buf, int64(first)*PageSize)
		done <- err
	}()
	select {
	case err := <-done:
		if err != nil {
			d.back.kept.writeErrors.Add(1)
			return fmt.Errorf("writeback: the pages stay in RAM: %w: %w", ErrBacking, err)
		}
		return nil
	case <-p.ctx.Done():
		b := &d.back.batch
		b.buf = nil
		charged, change := b.charged, b.change
		go func() {
			err := <-done
			d.wroteLate(err, len(buf)/PageSize, charged, change)
			d.unclaim(first, len(buf)/PageSize, true)
		}()
		return p.ctx.Err()
	}
}

// wroteLate counts n blocks that a pass did not wait for, of which some were charged
// to a budget.
func (d *disk) wroteLate(err error, n, charged int, change uint64) {
	b := d.back
	if !b.inside.enter(0) {
		return
	}
	defer b.inside.leave(0)
	if err == nil {
		b.kept.writes.Add(int64(n))
		return
	}
	b.kept.writeErrors.Add(1)
	b.giveBack(charged, change)
}

// publish makes a page's word name the device, if nothing has happened to the
// page since it was marked, and frees the object.
func (p *writeback) publish(r *packedPage) {
	d := p.d
	d.quiet.RLock()
	defer d.quiet.RUnlock()
	stream := int(r.slot) % len(d.lanes)
	d.table.lock(r.slot)
	old, ok := d.marked(r.slot, r.was)
	if ok {
		d.back.blocks.name(r.next)
		d.table.putBackedElement(r.slot, r.element)
		d.table.store(r.slot, r.next)
		d.lanes[stream].move(old, r.next)
	}
	d.table.unlock(r.slot)
	if !ok {
		return
	}
	p.res.pages++
	p.res.freed += int64(old.size())
	d.release(stream, r.slot, old)
}

// copyPP copies the object of the page that was marked as was, as it is. False:
// the page has changed, or cannot be read; then it is marked no more. Caller
// read-holds quiet.
func (d *disk) copyPP(slot uint64, was word, dst []byte) bool {
	d.pool.Touch(poolPlace(was), was.size()) // a fault must not happen under the slot's lock
	d.table.lock(slot)
	defer d.table.unlock(slot)
	now, ok := d.marked(slot, was)
	if !ok {
		return false
	}
	b, err := d.object(slot, now)
	if err != nil {
		d.lanes[int(slot)%len(d.lanes)].corrupt.Add(1)
		d.table.store(slot, now&^flagPP)
		return false
	}
	copy(dst, b)
	return true
}
