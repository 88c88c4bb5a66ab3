package blockdev

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/zramfs/zramfs/internal/invariants"
	"github.com/zramfs/zramfs/internal/shm"
	"github.com/zramfs/zramfs/internal/xts"
)

// Backing is a device that pages are written back to. Offsets, lengths and
// addresses of buffers are whole pages. A call may take as long as it likes, or
// for ever; any number may be under way.
type Backing interface {
	ReadAt(p []byte, off int64) (int, error)
	WriteAt(p []byte, off int64) (int, error)
	// Discard says that a range is not needed; an error that the device cannot.
	Discard(off, n int64) error
	Size() int64
}

// BackingSource opens backing devices. What it has opened outlives this process
// until it is dropped: the next generation adopts it.
type BackingSource interface {
	// OpenBacking opens the device at a path for a device alone. create is the
	// size of a file to be made, 0 for none. An error is one of this package's
	// kinds, or has an errno.
	OpenBacking(device, path string, create int64) (Backing, error)
	// AdoptBacking gives what an earlier generation opened for a device.
	AdoptBacking(device string) (Backing, error)
	// DropBacking closes it; a call under way may go on.
	DropBacking(device string, b Backing)
}

// backing is a disk's backing device and the requests that wait for it.
//
// A backed word names bytes on the device; the element table has their CRC, so
// that it needs no room there and old bytes are not taken for new ones. Which
// blocks are in use follows from the words. A page goes to the device while its
// object stays in RAM; the word moves on when the device has it, and the object
// is freed last. A block that no word names is free, and may be written over
// when nobody holds it.
//
// The device may stall for ever. So nobody waits for it with a lock, inside a
// gate, or on a goroutine that close waits for.
type backing struct {
	dev    Backing     // immutable
	blocks *blocks     // its contents see there
	kept   *keptBack   // shared memory
	key    *xts.Cipher // immutable; to be cloned; nil: nothing is encrypted

	settings atomic.Pointer[backSettings]

	away    away
	fetcher [fetchers]fetcher
	inside  gate // of the goroutines that wait for the device, while they do not
	batch   batch
	mute    atomic.Bool // the device cannot discard

	budget sync.Mutex // held while kept.budget changes; below everything
	change uint64     // guarded by budget; how often a budget, or whether there is one, was stored
}

// backSettings are what can be changed at any time.
type backSettings struct {
	packed  bool // write compressed bytes; immutable once the disk is there
	limited bool // there is a budget
	batch   int  // most blocks in a write
	promote uint32
}

// Modes of keptBack.
const (
	backFresh = iota
	backPlain
	backSealed
)

// keptBack is what of a backing device outlives a worker, beside the words. It
// lies in a page of the region's header.
type keptBack struct {
	mode atomic.Uint64
	key  [xts.KeySize]byte // zeroed at reset; the region is in no dump

	budget        atomic.Int64 // blocks that may still be written, if limited
	reads, writes atomic.Int64 // blocks
	promoted      atomic.Int64 // pages that came back to RAM since they were read often
	readErrors    atomic.Int64 // of the device
	writeErrors   atomic.Int64
	damaged       atomic.Int64 // pages read back that were not what was written

	populated atomic.Uint64 // 1: the disk is to be swap, so the table of blocks is to be populated
}

// keptBackAt is where in the region.
const keptBackAt = keptAt + 1024

func keptBackOf(r *shm.Region) *keptBack { return (*keptBack)(unsafe.Add(r.Base(), keptBackAt)) }

// openBacking makes the disk's side of a device. In a new region it makes the
// key; budget is what a new disk may write.
func (d *disk) openBacking(dev Backing, s backSettings, plain bool, budget int64) error {
	b := &backing{dev: dev, kept: keptBackOf(d.region), inside: newGate(1)}
	b.settings.Store(&s)
	if b.kept.mode.Load() == backFresh {
		if err := b.begin(plain, budget); err != nil {
			return err
		}
	}
	if b.kept.mode.Load() == backSealed {
		var err error
		if b.key, err = xts.New(b.kept.key[:]); err != nil {
			return fmt.Errorf("key of the backing device: %w", err)
		}
	}
	var err error
	if b.blocks, err = newBlocks(uint64(dev.Size() / PageSize)); err != nil {
		return err
	}
	for i := range b.fetcher {
		b.fetcher[i].init(i, b.key)
	}
	b.away.wake = make(chan struct{}, fetchers)
	d.back = b
	return nil
}

// begin makes the key, which exists nowhere else.
func (b *backing) begin(plain bool, budget int64) error {
	mode := uint64(backPlain)
	if !plain {
		mode = backSealed
		if _, err := rand.Read(b.kept.key[:]); err != nil {
			return fmt.Errorf("make the key of the backing device: %w", err)
		}
	}
	b.kept.budget.Store(budget)
	invariants.CrashPoint("life.backing.key")
	b.kept.mode.Store(mode)
	return nil
}

// rebudget lets store change what may still be written. What was charged before
// is not given back: it was another budget's.
func (b *backing) rebudget(store func()) {
	b.budget.Lock()
	defer b.budget.Unlock()
	store()
	b.change++
}

// startBacking starts the goroutines that wait for the device. The disk's end
// does not wait for them.
func (d *disk) startBacking() {
	if d.back == nil {
		return
	}
	for i := range d.back.fetcher {
		go d.runFetcher(&d.back.fetcher[i])
	}
	go d.runTrimmer()
	if d.back.kept.populated.Load() != 0 {
		// Who takes over serves before that is done, as with the reserve: there may be
		// no memory until it does. What the words name it has touched already.
		d.wg.Go(func() { _ = d.back.blocks.populate(d.ending) })
	}
}

// populateBacking commits what the disk needs of the backing device before it
// becomes swap, here and in the next worker: 0.03 % of the device's size.
func (d *disk) populateBacking(ctx context.Context) error {
	if d.back == nil {
		return nil
	}
	d.back.kept.populated.Store(1)
	return d.back.blocks.populate(ctx)
}

// closeBacking leaves the device alone: a call that still waits for it finds
// nothing of the disk when it returns.
func (d *disk) closeBacking() {
	b := d.back
	if b == nil {
		return
	}
	b.inside.shut()
	for r := b.away.takeAll(); r != nil; { // who came after the gate was shut
		next := r.next
		r.next = nil
		d.answer(r, ErrNotReady)
		r = next
	}
	b.blocks.close()
}

// forget makes what was written back unreadable for ever.
func (d *disk) forget() {
	if d.back != nil {
		clear(d.back.kept.key[:])
	}
}

// freeBacked gives up the bytes that a replaced word named.
func (d *disk) freeBacked(w word) {
	if d.back != nil && d.back.blocks.fits(w) {
		d.back.blocks.unname(w)
	}
}

// rebuildBacked counts a backed word, or settles one that was being replaced: the
// element that its new content needs had come already, or the CRC is there still.
// A word without its CRC is damaged, and counts nowhere.
func (d *disk) rebuildBacked(slot uint64, w word) {
	e := d.table.elementAt(slot)
	_, ok := backedCRC(slot, w&^flagReplaced, e)
	switch {
	case ok && w.has(flagReplaced):
		w &^= flagReplaced
		d.table.store(slot, w)
	case ok:
	case w.has(flagReplaced):
		d.table.store(slot, sameWord(slot, e))
		return
	default:
		d.table.store(slot, lostWord)
		d.lanes[0].corrupt.Add(1)
		return
	}
	if d.back != nil && d.back.blocks.fits(w) {
		d.back.blocks.name(w)
	}
}

// Flags of a backed word. It is never idle or incompressible, since the page was
// looked after already.
const (
	flagReplaced = flagIdle           // its CRC may be gone: a same page's element takes its place
	flagReadBack = flagIncompressible // it has been read since it was written back
)

// inner is the word that the object of a backed page had in RAM, without a place.
func (w word) inner() word {
	if w.size() == PageSize {
		return makeWord(huge, 0, PageSize, 0)
	}
	return makeWord(stored, w.params(), w.size(), 0)
}

// crcOf is the CRC of a backed page's bytes: as an object's, it is tied to the
// slot and all that is needed to read it.
func (d *disk) crcOf(slot uint64, w word, b []byte) uint32 {
	return crc32.Update(d.seed(slot, w.inner()), crc32.MakeTable(crc32.Castagnoli), b)
}

// backedElement is what the element table has of a backed page: its CRC, and a
// check over that and the word's place, so that it is told from other elements.
func backedElement(slot uint64, w word, crc uint32) uint64 {
	return uint64(crc)<<32 | elementCheck(slot^w.place()<<8, uint64(crc)) ^ 0x5a5a5a5a
}

// backedCRC gives the CRC out of a backed page's element; false if it is none.
func backedCRC(slot uint64, w word, e uint64) (crc uint32, ok bool) {
	crc = uint32(e >> 32)
	return crc, e == backedElement(slot, w, crc)
}

// sameBytes says whether two words name the same bytes of the backing device.
func (w word) sameBytes(v word) bool {
	const flags = flagReadBack | flagPP
	return (w^v)&plainMask&^flags == 0
}

// alignedBuffer gives n bytes that begin a page, as direct I/O wants them. They
// are written to: fresh memory of the heap would fault at its first use, with
// the slot locked whose page is copied there.
func alignedBuffer(n int) []byte {
	b := make([]byte, n+PageSize)
	clear(b)
	off := int(-uintptr(unsafe.Pointer(unsafe.SliceData(b))) & (PageSize - 1))
	return b[off:][:n:n]
}

// seal and unseal encrypt and decrypt blocks that begin at first.
func seal(c *xts.Cipher, b []byte, first uint64) {
	if c != nil {
		for i := range slices.Chunk(b, PageSize) {
			c.Encrypt(i, first)
			first++
		}
	}
}

func unseal(c *xts.Cipher, b []byte, first uint64) {
	if c != nil {
		for i := range slices.Chunk(b, PageSize) {
			c.Decrypt(i, first)
			first++
		}
	}
}

// checkBacked: the blocks in use are those that words name.
func (d *disk) checkBacked() error {
	if d.back == nil {
		return nil
	}
	var bad error
	err := d.back.blocks.check(func(yield func(w word)) {
		for slot, w := range d.table.each {
			if w.state() != backed || !w.sound(slot) || !d.back.blocks.fits(w) {
				continue
			}
			yield(w)
			if _, ok := backedCRC(slot, w, d.table.elementAt(slot)); !ok && bad == nil {
				bad = fmt.Errorf("slot %d is on the backing device, and its CRC is gone: %w", slot, ErrCorrupt)
			}
		}
	})
	return errors.Join(bad, err)
}

// elementAt reads a slot's element. Caller holds the slot's lock, or nothing
// changes.
func (t *table) elementAt(slot uint64) uint64 { return atomic.LoadUint64(&t.elements[slot]) }

// putBackedElement stores a backed page's CRC, before the word. Caller holds the
// slot's lock.
func (t *table) putBackedElement(slot uint64, e uint64) {
	t.ensure(slot)
	invariants.CrashPoint("backed.element")
	atomic.StoreUint64(&t.elements[slot], e)
	invariants.CrashPoint("backed.element.stored")
}
