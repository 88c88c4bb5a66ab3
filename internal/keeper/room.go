package keeper

import (
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/zramfs/zramfs/blockdev"
	"github.com/zramfs/zramfs/internal/fusefs"
	"github.com/zramfs/zramfs/internal/invariants"
)

// maxSegments is how many segments a swap can have.
const maxSegments = fusefs.MaxSegments

const (
	// roomBeat is how often the worker tells its figures while there is swap.
	roomBeat = 50 * time.Millisecond
	// quickBeat is how often it does while slots are taken and a segment can
	// still be enabled: 10 MiB or more may come in 50 ms.
	quickBeat = 10 * time.Millisecond
	// slowBeat is how often it looks whether there is.
	slowBeat = 200 * time.Millisecond
)

// roomPage is a page of the mount's header, in shared memory: what the worker
// tells the keeper's swap threads, and the plan of the segments, which a new
// keeper goes on with. All counts are pages of 4096 bytes unless named otherwise.
//
// Each group has one writer. A figure is right at some moment; two of them may
// be of different beats.
type roomPage struct {
	// Of the worker that serves.
	beat       atomic.Int64 // counts the others; 0: there never was one
	pages      atomic.Int64 // slots that hold something
	bytes      atomic.Int64 // what these became
	huge       atomic.Int64 // of the slots, those whose page is stored as it is
	used       atomic.Int64 // pages of memory under the limit
	limit      atomic.Int64 // 0: none
	waiting    atomic.Int64 // writes that wait for room now
	failed     atomic.Int64 // writes that got an error, ever
	requests   atomic.Int64 // pages read, written and discarded, ever
	compressed atomic.Int64 // pages, since this worker began
	stored     atomic.Int64 // bytes that these became
	populated  atomic.Int64 // segments whose tables are committed
	away       atomic.Int64 // requests that wait for the backing device now
	_          [128 - 13*8]byte

	// The plan, of the keeper's op. total is stored last, and is 0 while there
	// is none.
	total    atomic.Int64              // segments
	segment  atomic.Int64              // pages of each
	cap      atomic.Int64              // what the store may take, whatever its limit
	priority atomic.Int64              // of swapon(2)
	guarded  atomic.Int64              // 1: the watchdog may be armed
	lease    atomic.Int64              // CLOCK_MONOTONIC, ns: until then nothing is enabled, a swapoff is at work
	loops    [maxSegments]atomic.Int64 // numbers of the loop devices
	_        [256 - (6+maxSegments)*8]byte

	// Of the keeper's enabling thread.
	wanted  atomic.Int64 // segments whose tables are to be committed
	enabled atomic.Int64 // segments
	free    atomic.Int64 // slots of the enabled segments
	wasOn   atomic.Int64 // bits: segments that were seen enabled
	halted  atomic.Int64 // 1: somebody turned one off, so no more are enabled
	ratio   atomic.Int64 // seen, in percent
	room    atomic.Int64 // left for plans, held back not counted
	held    atomic.Int64 // held back
	errno   atomic.Int64 // of the last swapon(2) that failed; 0: none did
	settled atomic.Int64 // 1: all is enabled that is to be enabled now
	hurry   atomic.Int64 // 1: slots are being taken, and figures wanted at the quick beat
	_       [128 - 11*8]byte

	// Of the keeper's watchdog.
	armed atomic.Int64 // 1: it can ask the OOM killer
	fired atomic.Int64 // how often it did
	last  atomic.Int64 // CLOCK_MONOTONIC, ns: when it last did; 0: never
}

// openRoom finds the page in the header's span for it.
func openRoom(span []byte) *roomPage {
	if len(span) < int(unsafe.Sizeof(roomPage{})) {
		panic("keeper: the header has no room for the room page")
	}
	return (*roomPage)(unsafe.Pointer(unsafe.SliceData(span)))
}

// figures is one reading of what the worker tells.
type figures struct {
	beat, pages, bytes, huge, used, limit, waiting, failed, requests, compressed, stored, away int64

	orphaned bool  // the last worker is dead, and the next has not answered yet; of the crash record
	cpu      int64 // ns of CPU time that the worker has taken; the kernel's word
}

func (p *roomPage) look() figures {
	return figures{
		beat: p.beat.Load(), pages: p.pages.Load(), bytes: p.bytes.Load(), huge: p.huge.Load(), used: p.used.Load(), limit: p.limit.Load(),
		waiting: p.waiting.Load(), failed: p.failed.Load(), requests: p.requests.Load(),
		compressed: p.compressed.Load(), stored: p.stored.Load(), away: p.away.Load(),
	}
}

// put stores a word, beside a crash point.
func put(point string, to *atomic.Int64, n int64) {
	invariants.CrashPoint(point)
	to.Store(n)
}

// publish tells the figures of a disk.
func (p *roomPage) publish(f blockdev.Figures) {
	put("room.figures", &p.pages, f.Pages)
	put("room.figures", &p.bytes, f.Bytes)
	put("room.figures", &p.huge, f.Huge)
	put("room.figures", &p.used, f.Used)
	put("room.figures", &p.limit, f.Limit)
	put("room.figures", &p.waiting, f.Waiting)
	put("room.figures", &p.failed, f.FailedWrites)
	put("room.figures", &p.requests, f.Requests)
	put("room.figures", &p.compressed, f.Compressed)
	put("room.figures", &p.stored, f.Stored)
	put("room.figures", &p.away, f.Away)
	invariants.CrashPoint("room.beat")
	p.beat.Add(1)
	invariants.CrashPoint("room.published")
}

// roomKeeper is the worker's side of the page: a goroutine that publishes, and
// one that does what may have to wait: it commits tables, and moves objects
// together when the limit is near. Neither allocates once it runs.
type roomKeeper struct {
	page *roomPage               // immutable
	disk func() *blockdev.Device // immutable; nil if there is none
	work chan struct{}           // there is something to do; capacity 1
	stop chan struct{}           // closed to end both

	relieve func()    // immutable; at each beat, for requests that nobody takes
	rest    time.Time // of compaction; belongs to the second
}

// keepRoom starts publishing disk 0 of a set, until stop is closed.
func keepRoom(page *roomPage, set *blockdev.Set, relieve func(), stop chan struct{}) {
	k := &roomKeeper{
		page: page, disk: func() *blockdev.Device { return set.Device(0) },
		work: make(chan struct{}, 1), stop: stop, relieve: relieve,
	}
	go k.publish()
	go k.toil()
}

func (k *roomKeeper) publish() {
	beat := time.NewTicker(slowBeat)
	defer beat.Stop()
	for every := slowBeat; ; {
		k.relieve()
		if d := k.disk(); d != nil {
			k.page.publish(d.Figures())
		}
		if now := k.page.pulse(); now != every {
			every = now
			beat.Reset(every)
		}
		if k.page.wanted.Load() > k.page.populated.Load() || every != slowBeat && k.page.loose() {
			select {
			case k.work <- struct{}{}:
			default:
			}
		}
		select {
		case <-k.stop:
			return
		case <-beat.C:
		}
	}
}

// pulse is how often the worker tells its figures.
func (p *roomPage) pulse() time.Duration {
	switch {
	case p.total.Load() == 0:
		return slowBeat
	case p.hurry.Load() == 0:
		return roomBeat
	}
	return quickBeat
}

// loose says whether little room is left, and more could be had by moving
// objects together: data that come and go leave zspages that are half empty.
func (p *roomPage) loose() bool {
	used, limit := p.used.Load(), p.limit.Load()
	huge := p.huge.Load()
	packed := p.bytes.Load()/pageSize - huge
	return limit > 0 && used > limit/16*15 && used > huge+packed/32*33+looseLeast
}

// looseLeast is what compaction leaves: each class has a zspage that is not full.
const looseLeast = 256

// Rest of compaction after one that freed something, and one that did not.
const (
	shortRest = 100 * time.Millisecond
	longRest  = 2 * time.Second
)

// toil does what there is to do. What fails is tried again at the next beat.
func (k *roomKeeper) toil() {
	for {
		select {
		case <-k.stop:
			return
		case <-k.work:
		}
		d := k.disk()
		if d == nil {
			continue
		}
		k.populate(d)
		if now := time.Now(); k.page.loose() && now.After(k.rest) {
			k.rest = now.Add(longRest)
			if freed, err := d.Compact(); err == nil && freed > 0 {
				k.rest = time.Now().Add(shortRest)
			}
		}
	}
}

// populate commits the tables of the segments that are wanted, in order.
func (k *roomKeeper) populate(d *blockdev.Device) {
	for n := k.page.populated.Load(); n < k.page.wanted.Load(); n++ {
		bytes := k.page.segment.Load() * pageSize
		if d.Populate(n*bytes, bytes) != nil {
			return // no memory now
		}
		invariants.CrashPoint("room.populate")
		if !k.page.populated.CompareAndSwap(n, n+1) {
			return // the plan was dropped
		}
		invariants.CrashPoint("room.populated")
	}
}
