// Package pool keeps objects of 1 to 4096 bytes in zspages, as zsmalloc does:
// runs of 1 to 8 neighbouring pages cut into equal objects.
//
// What lies in shared memory is the objects, and nothing that says where they
// are: the owner's words do that, and Rebuild makes the rest from them. So no
// store of this package is a commit. An object is complete before Put returns
// its place; a place is free for others only after Free or a Mover said so.
//
//	arena   byte 0                                       a range of a region
//	        ├ chunk: 512 pages, 2 MiB ┬ zspage: 1-8 pages ┬ object: owner u32 | CRC-32C u32 | bytes
//	        │                         │                   └ ...
//	        │                         └ zspage of a huge page: 4096 raw bytes
//	side    per arena page: owner u32 | CRC-32C u32       of a huge page
//
// Every page of the arena is in one of these states:
//
//	void   a hole of the region. Maintain commits it: free.
//	free   committed, in no zspage. Put makes it used, Maintain void.
//	used   in a zspage. Free and Compact make it free.
//	waste  a name for free pages above the reserve's target, which Maintain
//	       gives back. They may be used until then.
//
// Locks, in order: maintenance and compaction (each held by one caller at a
// time, never by the I/O path) → a slab's mutex (a second slab's only by
// TryLock) → the arena's mutex. A Mover is called under a slab's mutex and so
// may only try its own locks. Account is called under these locks.
//
// It never knows pages of the disk or codecs, never starts a goroutine, never
// commits memory outside Maintain, and allocates nothing in Put, Get, Free.
package pool

import (
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"sync"
	"sync/atomic"
)

var (
	// ErrNoRoom means that no committed pages are free: Maintain must run.
	ErrNoRoom = errors.New("pool: no committed pages are free")
	// ErrLimit means that the account refused more pages.
	ErrLimit = errors.New("pool: over the memory limit")
	// ErrFull means that the arena's range is used up.
	ErrFull = errors.New("pool: arena is full")
	// ErrCorrupt means that an object is not what its owner's word says.
	ErrCorrupt = errors.New("pool: corrupt object")
	// ErrSize means that no class stores this length.
	ErrSize = errors.New("pool: length is not stored by any class")
)

// Place is where an object starts, in granules of 16 bytes from the arena's
// start: 34 bits.
type Place uint64

// PlaceBits is how many bits a Place needs at most.
const PlaceBits = 34

// Memory is a range of a shared region; *shm.Window is one. Offsets and
// lengths of Populate and Punch are whole pages. Data yields the committed
// ranges, ascending.
//
// Maintain calls Populate and Punch while the pages are void to everybody, and
// changes nothing else meanwhile: until they return the pool is one that Check
// finds in order.
type Memory interface {
	Bytes(off, n int64) []byte
	Populate(off, n int64) error
	Punch(off, n int64) error
	Data(yield func(off, n int64) bool) error
}

// Account bounds the pages in zspages. It is called under locks and never
// blocks. Take false means: not one page of these. Room is how many pages it
// would let be taken now; MaxRoom: any number.
type Account interface {
	Take(pages int64) bool
	Give(pages int64)
	Room() int64
}

// MaxRoom is the room of an Account without bounds.
const MaxRoom = math.MaxInt64

// Config says what a pool is made of.
type Config struct {
	Arena      Memory    // ArenaBytes
	Side       Memory    // SideBytes(ArenaBytes)
	Scratch    Memory    // ScratchBytes(ArenaBytes); nil: memory of this process
	ArenaBytes int64     // multiple of ChunkSize, at most MaxArena
	Geometry   *Geometry // shared by pools
	Slabs      int       // one for each stream
	Account    Account   // nil: no limit
	// Committed free bytes that Maintain keeps: it commits while there are
	// fewer than ReserveHigh, Wake asks for it below ReserveLow. Rounded up to
	// groups of 8 pages, at least one group. Less is kept as the Account has less
	// room: what may not be taken is better left to others.
	ReserveLow, ReserveHigh int64
}

// Pool stores objects. Put, Get, Free and Compact may run at the same time in
// any number of threads, Maintain too; Rebuild, Check, Reset and Close need
// the pool to themselves, but for a Maintain that waits for its Memory while a
// Check runs.
//
// Invariants, which Check proves: a page is used if and only if it is in
// exactly one zspage; a zspage belongs to one slab, holds at least one object,
// and is the slab's open one of its class, or full, or in one of its lists.
type Pool struct {
	geo     *Geometry      // immutable
	poly    *crc32.Table   // immutable
	mem     []byte         // immutable; the arena, shared
	side    []byte         // immutable; the side array, shared
	account Account        // immutable
	table   *table         // immutable; its contents see run
	arena   *arena         // immutable
	slabs   []slab         // immutable
	zspages []atomic.Int64 // of each class, in all slabs; the slice is immutable
	wake    chan struct{}

	maintenance sync.Mutex // held for a step of Maintain
	compaction  sync.Mutex // held for a Compact

	compacted atomic.Int64 // pages that Compact returned
	moved     atomic.Int64 // objects that Compact moved
}

// New makes an empty pool over memory of which nothing is used. What a former
// pool left in the memory is found by Rebuild, which must run before anything
// else if there may be something.
func New(cfg Config) (*Pool, error) {
	switch {
	case cfg.Geometry == nil:
		return nil, errors.New("pool: new: no geometry")
	case cfg.ArenaBytes <= 0 || cfg.ArenaBytes%ChunkSize != 0 || cfg.ArenaBytes > MaxArena:
		return nil, fmt.Errorf("pool: new: arena of %d bytes is not a multiple of %d up to %d",
			cfg.ArenaBytes, ChunkSize, int64(MaxArena))
	case cfg.Slabs < 1:
		return nil, fmt.Errorf("pool: new: %d slabs", cfg.Slabs)
	}
	pages := cfg.ArenaBytes / PageSize
	t, err := newTable(pages, cfg.Scratch)
	if err != nil {
		return nil, fmt.Errorf("pool: new: %w", err)
	}
	p := &Pool{
		geo:     cfg.Geometry,
		poly:    crc32.MakeTable(crc32.Castagnoli),
		mem:     cfg.Arena.Bytes(0, cfg.ArenaBytes),
		side:    cfg.Side.Bytes(0, SideBytes(cfg.ArenaBytes)),
		account: cfg.Account,
		table:   t,
		slabs:   make([]slab, cfg.Slabs),
		zspages: make([]atomic.Int64, len(cfg.Geometry.classes)),
		wake:    make(chan struct{}, 1),
	}
	if p.account == nil {
		p.account = unlimited{}
	}
	p.arena, err = newArena(cfg.Arena, cfg.Side, cfg.Scratch, pages, cfg.ReserveLow, cfg.ReserveHigh, p.account.Room)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("pool: new: %w", err), t.close())
	}
	p.initSlabs()
	return p, nil
}

// initSlabs makes all slabs empty.
func (p *Pool) initSlabs() {
	for i := range p.slabs {
		p.slabs[i].init(uint32(i), len(p.geo.classes))
	}
	for i := range p.zspages {
		p.zspages[i].Store(0)
	}
}

// SideBytes is the length of the side array of an arena.
func SideBytes(arena int64) int64 { return arena / PageSize * HeaderSize }

// Geometry is the table of classes.
func (p *Pool) Geometry() *Geometry { return p.geo }

// Close gives back what is derived. The shared memory stays as it is, for
// another pool to Rebuild from.
func (p *Pool) Close() error {
	if err := errors.Join(p.table.close(), p.arena.close()); err != nil {
		return fmt.Errorf("pool: close: %w", err)
	}
	return nil
}

// Wake is signalled when Maintain has something to do: the reserve is below
// its low mark, or there is waste to give back.
func (p *Pool) Wake() <-chan struct{} { return p.wake }

func (p *Pool) rouse() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// unlimited is an Account that takes everything.
type unlimited struct{}

func (unlimited) Take(int64) bool { return true }
func (unlimited) Give(int64)      {}
func (unlimited) Room() int64     { return MaxRoom }
