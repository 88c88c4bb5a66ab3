package blockdev

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/zramfs/zramfs/pool"
	"github.com/zramfs/zramfs/stable"
)

// recompressOptions say what a pass of recompression is to do.
type recompressOptions struct {
	selector
	priority  uint8 // of the algorithm to use, 1 to 3; 0: the first that there is
	threshold int   // bytes: smaller objects stay, and so does what becomes no smaller than it; 0: none
	maxPages  int64 // attempts; 0: no bound
}

// recompressResult is what a pass did.
type recompressResult struct {
	attempts     int64 // pages that were compressed again
	recompressed int64 // of these, pages that are stored as the result
	saved        int64 // bytes that the stored pages became shorter
}

// ppKept are the counters of post-processing that outlive a worker.
type ppKept struct {
	tried, recompressed, incompressible, saved, changed atomic.Int64
}

// ppCounters is ppKept at some moment.
type ppCounters struct{ tried, recompressed, incompressible, saved, changed int64 }

func (p *ppKept) load() ppCounters {
	return ppCounters{p.tried.Load(), p.recompressed.Load(), p.incompressible.Load(), p.saved.Load(), p.changed.Load()}
}

// ppFull is how many pages in a row a pass tries at the memory limit before it
// gives up.
const ppFull = 64

// recompressor is one pass.
type recompressor struct {
	d      *disk
	ctx    context.Context
	o      recompressOptions
	params uint8 // number of what it compresses with
	top    bool  // nothing compresses better: what it cannot make smaller is given up
	turn   int   // whose stream is next
	full   int   // pages in a row for which there was no room under the limit
	page   []byte
	result recompressResult
	err    error
}

// recompressPass compresses candidates again with a secondary algorithm, and keeps
// what lies in a smaller size class than before. What the algorithm of the highest
// priority does not make smaller is given up until it is written again. ErrAgain
// while another pass runs, ErrInvalid without the algorithm, else ctx's error or
// that there is no room.
func (d *disk) recompressPass(ctx context.Context, o recompressOptions) (recompressResult, error) {
	p := recompressor{d: d, o: o, top: true, page: make([]byte, PageSize)}
	found := false
	for prio := uint8(1); prio <= maxPriority; prio++ {
		n, ok := d.secondary(prio)
		switch {
		case ok && (o.priority == prio || o.priority == 0 && !found):
			p.params, p.o.priority, found = n, prio, true
		case ok && found:
			p.top = false
		}
	}
	if !found {
		return p.result, fmt.Errorf("there is no secondary algorithm of that priority; set recomp_algorithm before disksize: %w", ErrInvalid)
	}
	ctx, end, err := d.beginPass(ctx)
	if err != nil {
		return p.result, err
	}
	defer end()
	p.ctx = ctx
	sel := o.selector
	sel.minSize = max(sel.minSize, o.threshold)
	sel.below, sel.tries = p.o.priority, true
	if err := d.eachCandidate(ctx, sel, p.visit); err != nil {
		return p.result, err
	}
	d.upkeep.poke() // pages may have become waste
	return p.result, p.err
}

// visit compresses one page again. Where upkeep has no room ready it waits for
// that, a little; at the memory limit it moves objects together first.
func (p *recompressor) visit(slot uint64, w word) (more bool) {
	d := p.d
	compacted := false
	for try := time.Duration(1); ; try++ {
		switch p.err = p.once(slot, w); {
		case p.err == nil:
			p.full = 0
			return p.o.maxPages == 0 || p.result.attempts < p.o.maxPages
		case p.err == errLimit && !compacted && p.full == 0:
			compacted = true
			// So much that the next pages find room as well, and no more: it takes long.
			over := max(0, d.account.used.Load()-d.account.limit.Load())
			d.compactSome(p.ctx, over+ladderPiece)
			d.upkeep.poke() // pages may have become waste
			if p.err = p.ctx.Err(); p.err == nil {
				continue
			}
		case p.err == errLimit:
			// Pages that need no more may follow.
			if p.full++; p.full < ppFull {
				p.err = nil
				d.unmark(slot, w)
				return true
			}
			p.err = fmt.Errorf("no room under the memory limit for shorter objects beside the longer ones: %w", ErrNoSpace)
		case p.err == errRoom && try*firstPause <= max(d.roomWait, DefaultRoomWait):
			d.upkeep.poke()
			time.Sleep(firstPause)
			continue
		case p.err == errRoom:
			p.err = fmt.Errorf("the machine has no memory for a shorter object beside the longer one: %w", ErrNoSpace)
		}
		d.unmark(slot, w)
		return false
	}
}

// once is visit without the wait. With an error the page is still marked.
func (p *recompressor) once(slot uint64, w word) error {
	d := p.d
	d.quiet.RLock()
	defer d.quiet.RUnlock()
	p.turn++
	stream := p.turn % len(d.lanes)
	if !d.readPP(stream, slot, w, p.page) {
		d.kept.pp.changed.Add(1)
		return nil
	}
	next, err := p.compress(stream, slot, w)
	if err != nil {
		return err
	}
	p.result.attempts++
	d.kept.pp.tried.Add(1)
	switch {
	case next == 0 && p.top:
		if d.unmarkPP(slot, w, flagIncompressible, flagIdle) {
			d.kept.pp.incompressible.Add(1)
		}
	case next == 0:
		d.unmarkPP(slot, w, 0, flagIdle)
	case d.replacePP(stream, slot, w, next):
		p.result.recompressed++
		p.result.saved += int64(w.size() - next.size())
		d.kept.pp.recompressed.Add(1)
		d.kept.pp.saved.Add(int64(w.size() - next.size()))
	default:
		d.wipe(stream, slot, next)
		d.kept.pp.changed.Add(1)
	}
	return nil
}

// compress puts the page, compressed, into the pool and gives the word that will
// name it; 0: that would save nothing. It compresses in the spare stream, so that
// no I/O waits for it.
func (p *recompressor) compress(stream int, slot uint64, w word) (word, error) {
	d := p.d
	if err := d.faults.beforeCompress(); err != nil {
		return 0, fmt.Errorf("slot %d: %w", slot, err)
	}
	v := stable.Borrow(p.page, d.stable)
	defer v.Release()
	st := d.codecs.Spare()
	st.Lock()
	defer st.Unlock()
	out, err := st.Compress(d.rows[p.params].codec, v)
	if err != nil || len(out) >= d.hugeLen || p.o.threshold != 0 && len(out) >= p.o.threshold {
		return 0, nil
	}
	if geo := d.pool.Geometry(); geo.Class(len(out)) >= geo.Class(w.size()) {
		return 0, nil
	}
	next := makeWord(stored, p.params, len(out), 0)
	if err := d.faults.beforePut(); err != nil {
		return 0, fmt.Errorf("slot %d: %w", slot, err)
	}
	place, err := d.pool.Put(stream, uint32(slot), d.seed(slot, next), out)
	if err == pool.ErrLimit {
		// A run of pages beyond the limit, as in the kernel: or a full store could
		// never become smaller.
		d.account.lent.Add(chainPages)
		place, err = d.pool.Put(stream, uint32(slot), d.seed(slot, next), out)
		d.account.lent.Add(-chainPages)
	}
	switch err {
	case nil:
		count(&d.lanes[stream].objects, 1)
		return next | word(place)<<placeShift, nil
	case pool.ErrNoRoom:
		return 0, errRoom
	case pool.ErrLimit:
		return 0, errLimit
	case pool.ErrFull:
		return 0, fmt.Errorf("no room for the shorter object of slot %d beside the longer one: %w", slot, ErrNoSpace)
	}
	return 0, fmt.Errorf("slot %d: %w", slot, err)
}
