package blockdev

import (
	"fmt"
	"sync"
	"sync/atomic"
)

// blockLine is the length of a line of block_state. All have it, so a position in
// the text tells the number of the line.
const blockLine = 40

// blockReaders remembers for the last few reads of block_state where the next one
// would go on, which would else count all the lines before. As in the kernel, a
// page that comes or goes behind a reader does not move the lines before it.
type blockReaders struct {
	mu    sync.Mutex
	marks [4]blockMark // guarded by mu; the newest first
}

// blockMark says that a line is that of the first page at or after a slot.
type blockMark struct{ line, slot uint64 }

// find gives a slot from which to count: the mark of the line, or the start.
func (r *blockReaders) find(line uint64) blockMark {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, m := range r.marks {
		if m.line == line {
			return m
		}
	}
	return blockMark{}
}

func (r *blockReaders) note(m blockMark) {
	r.mu.Lock()
	defer r.mu.Unlock()
	copy(r.marks[1:], r.marks[:])
	r.marks[0] = m
}

// showBlockState fills b with lines of block_state from byte off on.
func showBlockState(d *Device, b []byte, off int64) (int, error) {
	k := d.hold()
	if k == nil {
		return 0, fmt.Errorf("block_state: %s has no disksize yet: %w", d.Name(), ErrInvalid)
	}
	defer k.letGo()
	n, skip := 0, int(off%blockLine)
	wanted := uint64(off / blockLine)
	at := k.blocks.find(wanted)
	var line [blockLine]byte
	for slot, w := range k.table.eachFrom(at.slot) {
		if at.line < wanted {
			at.line++
			continue
		}
		at.slot = slot
		text := k.appendState(line[:0], slot, w)
		c := copy(b[n:], text[skip:])
		n += c
		if skip+c < len(text) { // the next read begins within this line
			k.blocks.note(at)
			return n, nil
		}
		skip = 0
		at.line++
		at.slot = slot + 1
		wanted = at.line
		if n == len(b) {
			break
		}
	}
	k.blocks.note(at)
	return n, nil
}

// appendState prints the kernel's columns: the page, its last access, whose
// fraction is always 0 as in newer kernels, and six flags: same, written back,
// huge, idle, recompressed, incompressible.
func (d *disk) appendState(b []byte, slot uint64, w word) []byte {
	s, away := w.state(), w.state() == backed // whose flags mean other things
	return fmt.Appendf(b, "%12d %12d.%06d %c%c%c%c%c%c\n", slot, atomic.LoadUint32(&d.table.atimes[slot]), 0,
		mark(s == same, 's'), mark(away, 'w'), mark(s == huge, 'h'),
		mark(w.has(flagIdle) && !away, 'i'), mark(d.priorityOf(w) > 0, 'r'), mark(w.has(flagIncompressible) && !away, 'n'))
}

func mark(on bool, c byte) byte {
	if on {
		return c
	}
	return '.'
}
