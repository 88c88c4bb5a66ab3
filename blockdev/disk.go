package blockdev

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/zramfs/zramfs/compress"
	"github.com/zramfs/zramfs/internal/invariants"
	"github.com/zramfs/zramfs/internal/percpu"
	"github.com/zramfs/zramfs/internal/policy"
	"github.com/zramfs/zramfs/internal/shm"
	"github.com/zramfs/zramfs/pool"
	"github.com/zramfs/zramfs/stable"
)

// disk is everything that lives from disksize to reset.
//
// Invariants: at a quiet moment each stored or huge word names one object of
// the pool that names it back, each staged word one frame, and the lanes'
// gauges equal the table's sums.
type disk struct {
	region  *shm.Region   // immutable
	layout  layout        // immutable
	table   *table        // immutable
	pool    *pool.Pool    // immutable
	codecs  *compress.Set // immutable
	frames  *stable.Frames
	account account
	lanes   []lane        // one per stream, shared memory
	hands   []hand        // one per stream
	stable  *stable.Stats // in kept
	kept    *kept         // shared memory
	faults  *faults       // nil but in tests; immutable
	hugeLen int           // payload length from which a page is stored raw; immutable
	zero    []byte        // immutable; a page of zeroes to patch ragged edges with

	policy atomic.Uint32 // stable.Policy
	// The params that words name, by number: below rowCount immutable. Which of
	// them a priority has now, and 1; 0: none.
	rows       [maxParams]codecRow
	rowCount   atomic.Uint32
	byPriority [1 + maxPriority]atomic.Uint32

	clock atomic.Uint32 // seconds; coarse, moved on by the upkeep goroutine
	gate  gate          // of requests
	users gate          // of control operations, which never hold Device.mu inside
	quiet sync.RWMutex  // read-held by background steps, held by a check

	thread   func(bool)    // immutable; Config.UpkeepThread
	roomWait time.Duration // immutable; how long a write waits for memory

	ladder   ladder
	governor governor
	upkeep   upkeep
	waiting  waiting
	sweeper  sweeper
	pp       postprocess
	blocks   blockReaders
	back     *backing // nil: there is no backing device; immutable

	// Set while the disk is adopted: objects that no word named, pages whose
	// word or object was wrong.
	reclaimed, damaged int64

	checked atomic.Pointer[report] // of the last check; nil: there was none
	verify  verify

	checking  checking
	scrub     scrub
	integrity *integrity // in the header's kept page

	stop chan struct{}  // closed to end the goroutines
	wg   sync.WaitGroup // the goroutines

	// ending ends when the disk is being taken away, before anybody waits for
	// those who hold it. Both immutable.
	ending context.Context
	end    context.CancelFunc
}

// hand is what one stream has of its own: scratch for pages that are read or
// written in part, and how its compressor keeps up. Alone on its cache lines.
type hand struct {
	mu   sync.Mutex // below the slot's lock, above the stream's
	page []byte     // guarded by mu; a page that is patched
	part []byte     // guarded by mu; a page of which a part is read

	help atomic.Int64 // pages that the stream compresses itself before it stages one again

	_ [2*percpu.CacheLine - 64]byte
}

func (h *hand) lock() {
	invariants.Acquire(invariants.RankHand)
	h.mu.Lock()
}

func (h *hand) unlock() {
	invariants.Release(invariants.RankHand)
	h.mu.Unlock()
}

// options are what a disk is made with.
type options struct {
	size        int64
	reach       int64 // bytes that it can grow to at least; negative: not at all
	streams     int
	frames      int // write-behind depth; 0: off
	params      compress.Params
	dict        dictionaryFile // of params
	recomp      []wanted
	policy      stable.Policy
	limit       int64 // bytes; 0: none
	reserveLow  int64 // bytes of populated free memory
	reserveHigh int64
	thread      func(bool)
	roomWait    time.Duration
	ladder      limitPolicy
	rules       policy.Rules
	machine     func() policy.Machine
	scrub       int64   // MiB a second
	faults      *faults // nil but in tests

	backing      Backing // nil: none
	backSettings backSettings
	plain        bool  // what is written back is not encrypted
	budget       int64 // blocks that a new disk may write back
}

// chainPages is the kernel's default CONFIG_ZSMALLOC_CHAIN_SIZE.
const chainPages = 8

// createDisk makes an empty disk in a new region.
func createDisk(src RegionSource, name string, o options) (*disk, error) {
	l, err := newLayout(o.size, o.reach, o.frames, chainPages)
	if err != nil {
		return nil, err
	}
	r, err := src.Create(name, l.total)
	if err != nil {
		return nil, fmt.Errorf("create region of %s: %w", name, err)
	}
	invariants.CrashPoint("life.region")
	l.write(r.Bytes(0, PageSize))
	invariants.CrashPoint("life.layout.written")
	d, err := openDisk(r, l, o)
	if err != nil {
		src.Drop(name, r)
		return nil, err
	}
	return d, nil
}

// openDisk makes a disk over a region whose header is written, and starts its
// goroutines. The caller rebuilds it if the region is not new.
func openDisk(r *shm.Region, l layout, o options) (*disk, error) {
	if o.streams < 1 || o.streams > maxLanes {
		return nil, fmt.Errorf("%d streams: need 1 to %d: %w", o.streams, maxLanes, ErrInvalid)
	}
	g, err := pool.NewGeometry(l.chain)
	if err != nil {
		return nil, fmt.Errorf("pool geometry: %w", err)
	}
	d := &disk{
		region:  r,
		layout:  l,
		table:   newTable(r, l),
		codecs:  compress.NewSet(o.streams),
		lanes:   lanesOf(r, o.streams),
		hands:   make([]hand, o.streams),
		stable:  &keptOf(r).stable,
		kept:    keptOf(r),
		faults:  o.faults,
		hugeLen: g.HugeSize(),
		zero:    make([]byte, PageSize),
		gate:    newGate(o.streams),

		thread:   o.thread,
		roomWait: o.roomWait,

		users: newGate(1),
		stop:  make(chan struct{}),
	}
	d.ending, d.end = context.WithCancel(context.Background())
	d.clock.Store(bootSeconds())
	d.gate.nudge = d.stepAside
	d.integrity = integrityOf(r)
	d.scrub.wake = make(chan struct{}, 1)
	d.scrub.rate.Store(o.scrub)
	d.account.max = &d.kept.max
	foldLanes(r, d.kept, o.streams)
	d.policy.Store(uint32(o.policy))
	d.account.limit.Store(o.limit / PageSize)
	for i := range d.hands {
		d.hands[i].page, d.hands[i].part = make([]byte, PageSize), make([]byte, PageSize)
	}
	arena, err := shm.NewWindow(r, l.arena.off, l.arena.n)
	if err != nil {
		return nil, fmt.Errorf("arena: %w", err)
	}
	side, err := shm.NewWindow(r, l.side.off, l.side.n)
	if err != nil {
		return nil, fmt.Errorf("side array: %w", err)
	}
	scratch, err := shm.NewWindow(r, l.scratch.off, l.scratch.n)
	if err != nil {
		return nil, fmt.Errorf("descriptors: %w", err)
	}
	if d.pool, err = pool.New(pool.Config{
		Arena:       poolMemory{o.faults.memory(arena), d},
		Side:        poolMemory{o.faults.memory(side), d},
		Scratch:     poolMemory{scratch, d},
		ArenaBytes:  l.arenaBytes,
		Geometry:    g,
		Slabs:       o.streams,
		Account:     &d.account,
		ReserveLow:  o.reserveLow,
		ReserveHigh: o.reserveHigh,
	}); err != nil {
		return nil, fmt.Errorf("pool: %w", err)
	}
	d.upkeep.wake = make(chan struct{}, 1)
	d.sweeper.wake = make(chan struct{}, 1)
	d.openLadder(o.ladder)
	d.openGovernor(o.rules, o.machine)
	if l.frames > 0 {
		heads := view[uint64](r, l.heads.off, l.frames)
		d.frames = stable.NewFrames(r.Bytes(l.staging.off, l.staging.n), heads, o.streams, d.stable)
	}
	if err := errors.Join(d.openParams(append([]wanted{{params: o.params, file: o.dict}}, o.recomp...)), d.ready()); err != nil {
		return nil, errors.Join(err, d.pool.Close())
	}
	if o.backing != nil {
		if err := d.openBacking(o.backing, o.backSettings, o.plain, o.budget); err != nil {
			return nil, errors.Join(err, d.pool.Close())
		}
	}
	return d, nil
}

// ready commits what every request may touch, however sparse the disk: the
// counters, the bitmap of the slot table (even a look at a hole would make a
// page of it), and the frames.
func (d *disk) ready() error {
	for _, s := range []span{{keptAt, PageSize}, lanesSpan(len(d.lanes)), d.layout.bitmap(0, d.table.slots()), d.layout.heads, d.layout.staging} {
		if err := d.region.Populate(s.off, s.n); err != nil {
			return fmt.Errorf("populate counters, bitmap and frames: %w", err)
		}
	}
	return nil
}

// start starts the goroutines. Upkeep fills the reserve, if it is not full; who
// takes a disk over serves before that is done, since the machine may have no
// memory until it swaps.
func (d *disk) start() {
	d.upkeep.poke()
	d.wg.Go(d.runUpkeep)
	d.wg.Go(d.runSweeper)
	d.startBacking()
	d.wg.Go(d.runScrub)
	d.wg.Go(d.runLadder)
	d.wg.Go(d.runPolicy)
	if d.verify.total.Load() != 0 {
		d.wg.Go(d.runVerify)
	}
	if d.frames != nil {
		for i := range d.hands {
			d.wg.Go(func() { d.runCompressor(i) })
		}
	}
}

// close ends the goroutines. No request is under way: the gate is shut, and
// who waits before it is told that the disk is gone.
func (d *disk) close() {
	d.end()
	close(d.stop)
	d.wg.Wait()
	d.closeBacking()
	if err := d.pool.Close(); err != nil {
		panic(err) // an unmap of what we mapped
	}
	d.waiting.gate.close()
	for r := d.waiting.gate.takeOne(); r != nil; r = d.waiting.gate.takeOne() {
		r.Done(r, 0, ErrNotReady)
	}
}

// populate commits the tables of the disk as large as it is now, so that no
// write faults a page of them: what a disk needs before it becomes swap. It ends
// with ctx.
func (d *disk) populate(ctx context.Context) error {
	for _, s := range d.layout.tables(0, d.table.slots()) {
		if err := inSteps(ctx, s.n, func(off, n int64) error { return d.region.Populate(s.off+off, n) }); err != nil {
			return fmt.Errorf("populate tables: %w", err)
		}
	}
	return d.populateBacking(ctx)
}

// populateStep is how many bytes are populated before somebody looks whether that
// is still wanted.
const populateStep = 16 << 20

// inSteps calls populate for n bytes in pieces until ctx ends.
func inSteps(ctx context.Context, n int64, populate func(off, n int64) error) error {
	for off := int64(0); off < n; off += populateStep {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := populate(off, min(populateStep, n-off)); err != nil {
			return err
		}
	}
	return nil
}
