package blockdev

import (
	"context"
	"fmt"
	"math/bits"
	"sync/atomic"
	"unsafe"

	"github.com/zramfs/zramfs/internal/shm"
)

// Units of the backing device: a place of a backed word counts awayUnit bytes,
// and I/O is in whole blocks.
const (
	awayUnit  = 64
	maxBlocks = (maxPlace + 1) * awayUnit / PageSize // what a place can name: 1 TiB
)

// blocks says which blocks of the backing device are in use. It is derived: each
// word that names bytes there counts for every block they touch, and so does,
// for a while, who writes, reads or discards a block. A block with the count 0
// is free. There are at most 64 objects in a block and a part of one more.
//
// Nothing here takes a lock. The counts are in memory of their own, of which a
// page comes into being when it is used, unless the table was populated.
type blocks struct {
	mem    *shm.Private // immutable until close; of the two below
	counts []uint32     // four counts in each, changed atomically
	loose  []uint64     // a bit per block: freed, and the device not told yet
	n      uint64       // immutable; blocks
	from   uint64       // of the one who takes: where it looks next

	used   atomic.Int64 // blocks that are not free
	passer atomic.Int64 // counts that belong to no word
	freed  atomic.Int64 // bits in loose
}

func newBlocks(n uint64) (*blocks, error) {
	n = min(n, maxBlocks)
	words := int64((n + 63) / 64)
	mem, err := shm.NewPrivate(words * (64 + 8))
	if err != nil {
		return nil, fmt.Errorf("table of %d blocks of the backing device: %w", n, err)
	}
	p := mem.Base()
	return &blocks{mem: mem, n: n,
		counts: unsafe.Slice((*uint32)(p), words*16),
		loose:  unsafe.Slice((*uint64)(unsafe.Add(p, words*64)), words),
	}, nil
}

// populate commits the table, so that no use of it faults: it is used while
// the disk may not become quiet, and by readers of requests. It ends with ctx.
func (b *blocks) populate(ctx context.Context) error {
	if err := inSteps(ctx, b.mem.Size(), b.mem.Populate); err != nil {
		return fmt.Errorf("populate the table of %d blocks of the backing device: %w", b.n, err)
	}
	return nil
}

func (b *blocks) close() {
	if err := b.mem.Close(); err != nil {
		panic(err) // an unmap of what we mapped
	}
	b.counts, b.loose = nil, nil
}

func (b *blocks) count(block uint64) uint8 {
	return uint8(atomic.LoadUint32(&b.counts[block/4]) >> (block % 4 * 8))
}

// add counts one user of a block more.
func (b *blocks) add(block uint64) {
	shift := block % 4 * 8
	for {
		was := atomic.LoadUint32(&b.counts[block/4])
		if was>>shift&0xff == 0xff {
			panic(fmt.Sprintf("blockdev: block %d of the backing device has more users than fit into it", block))
		}
		if atomic.CompareAndSwapUint32(&b.counts[block/4], was, was+1<<shift) {
			if was>>shift&0xff == 0 {
				b.used.Add(1)
			}
			return
		}
	}
}

// drop counts one user less. The last one leaves the block free, and loose if
// it may hold something: a bit that comes too late, when the block is another's
// already, costs a discard once that one has left it. A block without users is
// left as it is: who drops it had a word that was damaged, its checks right by
// chance.
func (b *blocks) drop(block uint64, loose bool) {
	at, shift := &b.counts[block/4], block%4*8
	for {
		was := atomic.LoadUint32(at)
		users := was >> shift & 0xff
		if users == 0 {
			return
		}
		if !atomic.CompareAndSwapUint32(at, was, was-1<<shift) {
			continue
		}
		if users > 1 {
			return
		}
		break
	}
	b.used.Add(-1)
	if !loose {
		return
	}
	if bit := uint64(1) << (block % 64); atomic.OrUint64(&b.loose[block/64], bit)&bit == 0 {
		b.freed.Add(1)
	}
}

// claim takes a block that is free.
func (b *blocks) claim(block uint64) bool {
	shift := block % 4 * 8
	for {
		was := atomic.LoadUint32(&b.counts[block/4])
		if was>>shift&0xff != 0 {
			return false
		}
		if atomic.CompareAndSwapUint32(&b.counts[block/4], was, was+1<<shift) {
			b.used.Add(1)
			b.passer.Add(1)
			return true
		}
	}
}

// take claims up to most free blocks in a row; none: n is 0. One caller at a
// time.
func (b *blocks) take(most int) (first uint64, n int) {
	if b.used.Load() >= int64(b.n) {
		return 0, 0
	}
	for range b.n {
		block := b.from
		if b.from++; b.from == b.n {
			b.from = 0
		}
		switch {
		case b.claim(block):
			if b.tighten(block); n == 0 {
				first = block
			}
			if n++; n == most || b.from == 0 {
				return first, n
			}
		case n > 0:
			return first, n
		}
	}
	return first, n
}

// tighten forgets that a block that is the caller's was freed.
func (b *blocks) tighten(block uint64) {
	if bit := uint64(1) << (block % 64); atomic.AndUint64(&b.loose[block/64], ^bit)&bit != 0 {
		b.freed.Add(-1)
	}
}

// unclaim gives back blocks that take or claim gave.
func (b *blocks) unclaim(first uint64, n int, loose bool) {
	for i := range uint64(n) {
		b.passer.Add(-1)
		b.drop(first+i, loose)
	}
}

// nextLoose claims the next run of loose blocks from a block on; none: n is 0.
func (b *blocks) nextLoose(from uint64, most int) (first uint64, n int) {
	for i := from / 64; i < uint64(len(b.loose)) && n == 0; i++ {
		w := atomic.LoadUint64(&b.loose[i])
		if i == from/64 {
			w &= ^uint64(0) << (from % 64)
		}
		for ; w != 0 && n == 0; w &= w - 1 {
			first = i*64 + uint64(bits.TrailingZeros64(w))
			for n < most && first+uint64(n) < b.n && b.isLoose(first+uint64(n)) && b.claim(first+uint64(n)) {
				b.tighten(first + uint64(n))
				n++
			}
		}
	}
	return first, n
}

func (b *blocks) isLoose(block uint64) bool {
	return atomic.LoadUint64(&b.loose[block/64])&(1<<(block%64)) != 0
}

// span is the blocks that a backed word's bytes touch: from first to below end.
func (w word) span() (first, end uint64) {
	at := w.place() * awayUnit
	return at / PageSize, (at + uint64(w.size()) + PageSize - 1) / PageSize
}

// fits says whether a backed word names bytes of the device.
func (b *blocks) fits(w word) bool {
	_, end := w.span()
	return end <= b.n
}

// name counts a word, unname takes it back; hold and letGo do the same for who
// is only passing by.
func (b *blocks) name(w word) {
	for i, end := w.span(); i < end; i++ {
		b.add(i)
	}
}

func (b *blocks) unname(w word) {
	for i, end := w.span(); i < end; i++ {
		b.drop(i, true)
	}
}

func (b *blocks) hold(w word) {
	for i, end := w.span(); i < end; i++ {
		b.passer.Add(1)
		b.add(i)
	}
}

func (b *blocks) letGo(w word) {
	for i, end := w.span(); i < end; i++ {
		b.passer.Add(-1)
		b.drop(i, true)
	}
}

// check compares the counts with the words. Nobody else changes them meanwhile.
// What the words count is taken out, which must leave what passers-by do, and put
// back: a second table would take memory, while requests wait for the check.
func (b *blocks) check(words func(yield func(w word))) error {
	var err error
	words(func(w word) {
		for i, end := w.span(); i < end; i++ {
			if b.turn(i, 0xff) == 0 && err == nil {
				err = fmt.Errorf("block %d of the backing device counts fewer users than words name it: %w", i, ErrCorrupt)
			}
		}
	})
	var others int64
	for i := range b.n {
		others += int64(b.count(i))
	}
	words(func(w word) {
		for i, end := w.span(); i < end; i++ {
			b.turn(i, 1)
		}
	})
	if n := b.passer.Load(); err == nil && others != n {
		err = fmt.Errorf("blocks of the backing device count %d users that no word names, there are %d: %w", others, n, ErrCorrupt)
	}
	return err
}

// turn adds to a count, modulo 256, and gives what it was.
func (b *blocks) turn(block uint64, by uint8) (was uint8) {
	at, shift := &b.counts[block/4], block%4*8
	for {
		old := atomic.LoadUint32(at)
		was = uint8(old >> shift)
		if atomic.CompareAndSwapUint32(at, old, old&^(0xff<<shift)|uint32(was+by)<<shift) {
			return was
		}
	}
}
