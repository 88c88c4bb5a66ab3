package blockdev

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"os"

	"github.com/zramfs/zramfs/internal/invariants"
	"github.com/zramfs/zramfs/pool"
	"github.com/zramfs/zramfs/stable"
)

// PageSize is the size of a page, a slot's share of the disk.
const PageSize = stable.PageSize

// MaxSize is the largest disk: 2^32 slots, since an object names its slot in
// 32 bits.
const MaxSize = 16 << 40

const (
	formatVersion = 4
	headerBytes   = 1 << 20 // geometry, params and room for their dictionaries
	lanesAt       = 64 << 10
	paramsAt      = 4 << 10
	keptAt        = 8 << 10
	slotsAt       = 64 // the word that says how many slots the disk has now
	growth        = 8  // a disk can grow to so many times its first size, at least
	maxLanes      = 256
	maxFrames     = 1 << 20
	maxArena      = maxPlace * 16 // what a place can name: 256 GiB

	slotsPerTablePage = PageSize / 8
)

var magic = [8]byte{'z', 'r', 'a', 'm', 'f', 's', 0, '\n'}

// layout is where everything of one disk lies in its region. All offsets and
// lengths are bytes and multiples of PageSize. Immutable; derived from the
// four numbers in the header, so every generation finds the same.
//
// The tables have room for more slots than the disk has, so that it can grow
// without anything being moved: what no slot uses is a hole, and costs nothing
// but addresses.
type layout struct {
	slots      uint64 // of the disk when this was made or read; then the table knows
	capacity   uint64 // slots that there is room for
	arenaBytes int64
	frames     int
	chain      int // pages in the longest zspage

	presence, words, atimes, elements, side, scratch, heads, staging, arena span
	total                                                                   int64
}

// span is a range of the region.
type span struct{ off, n int64 }

// newLayout lays out a disk of size bytes that can grow to several times that,
// to at least reach bytes, or not at all if reach is negative. The arena is as
// large as the largest disk could ever need, as far as places reach.
func newLayout(size, reach int64, frames, chain int) (layout, error) {
	if size <= 0 || size%PageSize != 0 || size > MaxSize {
		return layout{}, fmt.Errorf("disk of %d bytes: need a multiple of %d up to %d: %w", size, PageSize, int64(MaxSize), ErrInvalid)
	}
	if frames < 0 || frames > maxFrames {
		return layout{}, fmt.Errorf("%d frames: need 0 to %d: %w", frames, maxFrames, ErrInvalid)
	}
	most := size
	if reach >= 0 {
		most = min(max(size*growth, roundUp(reach, PageSize)), MaxSize)
	}
	// Every page may turn out incompressible; beyond that there are open
	// runs, and chunks that compaction has not emptied yet.
	arena := min(most+most/8+64<<20, maxArena) &^ (2<<20 - 1)
	return layoutOf(uint64(size/PageSize), uint64(most/PageSize), arena, frames, chain), nil
}

func layoutOf(slots, capacity uint64, arenaBytes int64, frames, chain int) layout {
	l := layout{slots: slots, capacity: capacity, arenaBytes: arenaBytes, frames: frames, chain: chain}
	next := int64(headerBytes)
	place := func(s *span, n int64) {
		n = roundUp(n, PageSize)
		*s = span{next, n}
		next += n
	}
	tablePages := int64((capacity + slotsPerTablePage - 1) / slotsPerTablePage)
	place(&l.presence, (tablePages+7)/8)
	place(&l.words, tablePages*PageSize)
	place(&l.atimes, int64(capacity)*4)
	place(&l.elements, int64(capacity)*8)
	place(&l.side, pool.SideBytes(arenaBytes))
	place(&l.scratch, pool.ScratchBytes(arenaBytes))
	place(&l.heads, int64(frames)*8)
	place(&l.staging, int64(frames)*PageSize)
	next = roundUp(next, 2<<20)
	place(&l.arena, arenaBytes)
	l.total = next
	return l
}

// slotsBits is how much of the header's word about slots is their number; the
// rest is a check of it, so that one store changes both.
const slotsBits = 40

func sealSlots(n uint64) uint64 {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], n)
	return n | uint64(crc32.Checksum(b[:], crc32.MakeTable(crc32.Castagnoli)))<<slotsBits
}

func openSlots(w uint64) (n uint64, ok bool) {
	n = w & (1<<slotsBits - 1)
	return n, w == sealSlots(n)
}

func roundUp(n, to int64) int64 { return (n + to - 1) / to * to }

// tables are the ranges of the three tables that tell of the slots [first, last),
// in whole pages.
func (l *layout) tables(first, last uint64) [3]span {
	part := func(t span, entry int64) span {
		from := int64(first) * entry / PageSize * PageSize
		return span{t.off + from, roundUp(int64(last)*entry, PageSize) - from}
	}
	return [...]span{part(l.words, 8), part(l.atimes, 4), part(l.elements, 8)}
}

// bitmap is the range of the presence bitmap that tells of the slots [first, last),
// in whole pages.
func (l *layout) bitmap(first, last uint64) span {
	const slots = 8 * slotsPerTablePage // of a byte
	from := int64(first/slots) / PageSize * PageSize
	return span{l.presence.off + from, roundUp(int64((last+slots-1)/slots), PageSize) - from}
}

// write records the layout at the start of the region; the magic last, so
// that a region without it was never finished.
func (l layout) write(header []byte) {
	le := binary.LittleEndian
	le.PutUint64(header[8:], formatVersion)
	le.PutUint64(header[16:], l.capacity)
	le.PutUint64(header[24:], uint64(l.arenaBytes))
	le.PutUint64(header[32:], uint64(l.frames))
	le.PutUint64(header[40:], uint64(l.chain))
	le.PutUint64(header[48:], uint64(os.Getpagesize()))
	le.PutUint64(header[56:], headerSum(header))
	le.PutUint64(header[slotsAt:], sealSlots(l.slots))
	invariants.CrashPoint("life.layout")
	copy(header, magic[:])
}

// headerSum covers the fields from the version on.
func headerSum(header []byte) uint64 {
	return uint64(crc32.Checksum(header[8:56], crc32.MakeTable(crc32.Castagnoli)))
}

// readLayout reads what write wrote.
func readLayout(header []byte, regionSize int64) (layout, error) {
	le := binary.LittleEndian
	if [8]byte(header) != magic {
		return layout{}, fmt.Errorf("region has no zramfs header: %w", ErrCorrupt)
	}
	if v := le.Uint64(header[8:]); v != formatVersion {
		return layout{}, fmt.Errorf("region has format version %d, this binary reads %d: %w", v, formatVersion, ErrUnsupported)
	}
	if le.Uint64(header[56:]) != headerSum(header) {
		return layout{}, fmt.Errorf("region header fails its checksum: %w", ErrCorrupt)
	}
	capacity, arena := le.Uint64(header[16:]), le.Uint64(header[24:])
	frames, chain := le.Uint64(header[32:]), le.Uint64(header[40:])
	slots, ok := openSlots(le.Uint64(header[slotsAt:]))
	if !ok || slots == 0 || slots > capacity || capacity > MaxSize/PageSize || arena == 0 || arena > maxArena || arena%(2<<20) != 0 ||
		frames > maxFrames || chain == 0 || chain > chainPages || le.Uint64(header[48:]) != PageSize {
		return layout{}, fmt.Errorf("region header is damaged: %w", ErrCorrupt)
	}
	l := layoutOf(slots, capacity, int64(arena), int(frames), int(chain))
	if l.total != regionSize {
		return layout{}, fmt.Errorf("region is %d bytes, its header describes %d: %w", regionSize, l.total, ErrCorrupt)
	}
	return l, nil
}
