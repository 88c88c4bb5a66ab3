//go:build crashpoints

package blockdev

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"
	"unsafe"

	"github.com/zramfs/zramfs/internal/invariants"
	"github.com/zramfs/zramfs/internal/shm"
)

// contents is what lies in a region, by page.
type contents map[int64][]byte

func contentsOf(t *testing.T, r *shm.Region) contents {
	t.Helper()
	m := contents{}
	if err := r.Data(func(off, n int64) bool {
		for ; n > 0; off, n = off+PageSize, n-PageSize {
			m[off] = bytes.Clone(r.Bytes(off, PageSize))
		}
		return true
	}); err != nil {
		t.Fatal(err)
	}
	return m
}

// restore makes a region what it was.
func (m contents) restore(t *testing.T, r *shm.Region) {
	t.Helper()
	if err := r.Punch(0, r.Size()); err != nil {
		t.Fatal(err)
	}
	for off, page := range m {
		copy(r.Bytes(off, PageSize), page)
	}
}

// A generation that dies while it recovers, at any store, leaves what another
// can recover: with every kind of page, marks of a running pass, an element that
// was being replaced, a damaged object, and a page of the slot table that its
// bitmap has lost.
func TestCrashInRecovery(t *testing.T) {
	const size = 40 * PageSize
	src := newSource(t)
	o := crashOptions(t, size, 6)
	o.streams = 2
	d, pages := filledDisk(t, src, o, 8)
	defer func() { src.Drop("zram0", d.region) }()
	damaged, freed := -1, -1
	for slot := range uint64(size / PageSize) {
		w := d.table.load(slot)
		if w != 0 && slot%3 == 0 {
			d.table.store(slot, w|flagPP)
		}
		if w.inTable() {
			d.table.store(slot, makeWord(same, 0, sameReplace, 0))
		}
		if w.state() == staged && freed < 0 {
			freed = int(slot) // its frame was about to be wiped
			d.table.store(slot, 0)
			clear(pages[slot])
		}
		if w.state() == huge && damaged < 0 {
			damaged = int(slot)
			d.region.Bytes(d.layout.side.off+int64(w.place()/256*8), 1)[0] ^= 1 // its owner
		}
	}
	if damaged < 0 {
		t.Fatal("no huge page to damage")
	}
	d.table.presence[0] = 0
	before := contentsOf(t, d.region)
	seen := map[string]int{}
	for k := int64(1); ; k++ {
		before.restore(t, d.region)
		point := adoptAndDie(t, d.region, o, k)
		seen[point]++
		adoptAndDie(t, d.region, o, k%7+1) // and again
		next, err := adoptDisk(d.region, o)
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, PageSize)
		for slot, want := range pages {
			err := next.readPage(0, uint64(slot), 0, got)
			if slot == damaged {
				if !errors.Is(err, ErrCorrupt) {
					t.Fatalf("k %d, died at %s: the damaged page reads %v", k, point, err)
				}
			} else if err != nil || !bytes.Equal(got, want) {
				t.Fatalf("k %d, died at %s: slot %d: %v", k, point, slot, err)
			}
		}
		if err := next.check(); err == nil || !errors.Is(err, ErrCorrupt) {
			t.Fatalf("k %d, died at %s: Check says %v of a disk with a lost page", k, point, err)
		}
		next.emptySlot(0, uint64(damaged))
		if err := next.check(); err != nil {
			t.Fatalf("k %d, died at %s: %v", k, point, err)
		}
		if point == "" {
			break
		}
	}
	for _, point := range []string{"table.presence", "table.store", "table.stored", "frame.wipe.half", "lane.recount"} {
		if seen[point] == 0 {
			t.Errorf("nobody died at %s: %v", point, seen)
		}
	}
}

// eventCounter says whether a byte of the region is a counter of events: no
// other state hangs on it, a replayed request may count twice, and a death loses
// nothing but a count.
func eventCounter(off int64) bool {
	if off >= keptAt && off < keptAt+PageSize {
		return true
	}
	if off < lanesAt || off >= headerBytes {
		return false
	}
	in := (off - lanesAt) % int64(unsafe.Sizeof(lane{}))
	return in >= int64(unsafe.Offsetof(lane{}.reads))
}

// Between two points lies at most one store to shared memory, or a part of one
// copy of bytes that nothing names yet: so the enumeration above leaves nothing
// out. What the counters of events get is not looked at.
func TestCrashPointsAreEverywhere(t *testing.T) {
	const size = 24 * PageSize
	for _, c := range []struct {
		frames int
		ops    []operation
		size   int64
	}{{0, crashHistory(t, 1, size), size}, {3, crashHistory(t, 2, size), size}, {0, fragmentHistory(size * 4), size * 4}} {
		src := newSource(t)
		o := crashOptions(t, c.size, c.frames)
		d, err := createDisk(src, "zram0", o)
		if err != nil {
			t.Fatal(err)
		}
		if err := d.fillReserve(); err != nil {
			t.Fatal(err)
		}
		was, last, points := contentsOf(t, d.region), "start", 0
		look := func(name string) {
			now := contentsOf(t, d.region)
			if where := unguarded(was, now, d.layout); where != "" {
				t.Errorf("between %s and %s: %s", last, name, where)
			}
			was, last = now, name
			points++
		}
		invariants.Arm(0)
		invariants.Watch(look)
		_, _, err = d.run(c.ops, &model{disk: make([]byte, c.size)})
		look("the end")
		if err == nil {
			_, err = adoptDisk(d.region, o)
			look("the end of recovery")
		}
		invariants.Watch(nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%d points", points)
		src.Drop("zram0", d.region)
	}
}

// unguarded says what of the difference between two images is more than one
// store. A page that is void reads as zeroes.
func unguarded(was, now contents, l layout) string {
	var zero [PageSize]byte
	var words []int64 // that differ
	pages := map[int64]bool{}
	for off := range was {
		pages[off] = true
	}
	for off := range now {
		pages[off] = true
	}
	punched := 0
	for off := range pages {
		a, b := was[off], now[off]
		if off >= l.scratch.off && off < l.scratch.off+l.scratch.n {
			continue // nobody believes what the one before left there
		}
		if b == nil {
			punched++
			continue // what was punched nothing named; the pages may be many
		}
		if a == nil {
			a = zero[:]
		}
		if bytes.Equal(a, b) {
			continue
		}
		for i := int64(0); i < PageSize; i += 8 {
			if !bytes.Equal(a[i:i+8], b[i:i+8]) && !eventCounter(off+i) {
				words = append(words, off+i)
			}
		}
	}
	if len(words) == 0 || len(words) == 1 && punched == 0 {
		return ""
	}
	slices.Sort(words)
	first, end := words[0], words[len(words)-1]+8
	if bulk := first >= l.staging.off; bulk && punched == 0 && end-first <= PageSize {
		return "" // a part of a copy
	}
	if punched == 0 && (first >= paramsAt && end <= keptAt || first >= dictionariesAt && end <= headerBytes) {
		return "" // a part of a row of params or of a dictionary, which nothing names yet
	}
	return fmt.Sprintf("%d words change, from byte %d to %d of %+v, and %d pages go", len(words), first, end, l, punched)
}
