//go:build crashpoints

package blockdev

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"unsafe"

	"github.com/zramfs/zramfs/internal/invariants"
	"github.com/zramfs/zramfs/internal/shm"
	"github.com/zramfs/zramfs/stable"
)

// crashHistory is a list of steps that passes every kind of store to shared
// memory: whole and partial writes, same-filled and incompressible pages,
// overwrites, discards, staging and its end, compaction, commit and punch.
func crashHistory(tb testing.TB, seed uint64, size int64) []operation {
	r := rand.New(rand.NewPCG(seed, 3))
	var ops []operation
	for range 60 {
		o := draw(tb, r, size)
		switch r.IntN(8) {
		case 0:
			o = operation{kind: 'c'}
		case 1:
			o = operation{kind: 's'} // compress one staged page
		case 2:
			o = operation{kind: 'm'} // maintain
		}
		if o.kind != 'r' && o.kind != 'f' {
			ops = append(ops, o)
		}
	}
	return ops
}

// fragmentHistory fills a disk with small objects, frees most of them here and
// there, and lets compaction and upkeep give the memory back: moves of objects
// and punches.
func fragmentHistory(size int64) []operation {
	var ops []operation
	slots := size / PageSize
	for slot := range slots {
		page := make([]byte, PageSize)
		for i := 0; i < int(400+100*(slot%3)); i += 8 {
			binary.LittleEndian.PutUint64(page[i:], uint64(slot*7919+int64(i))*0x9E3779B97F4A7C15)
		}
		ops = append(ops, operation{kind: 'w', off: slot * PageSize, n: PageSize, fill: page})
	}
	for slot := range slots {
		if slot%4 != 0 {
			ops = append(ops, operation{kind: 'd', off: slot * PageSize, n: PageSize})
		}
	}
	ops = append(ops, operation{kind: 'c'}, operation{kind: 'm'}, operation{kind: 'd', n: size}, operation{kind: 'm'})
	for slot := range slots / 4 {
		ops = append(ops, ops[slot*3])
	}
	return append(ops, operation{kind: 'c'}, operation{kind: 'm'})
}

// do does one step on a disk without goroutines.
func (d *disk) do(o operation) error {
	answered, answer := false, error(nil)
	req := &Request{Off: o.off, Len: o.n, Data: o.fill, Done: func(_ *Request, _ int, err error) {
		answered, answer = true, err
	}}
	switch o.kind {
	case 'c':
		_, err := d.compact()
		return err
	case 's':
		if d.frames == nil {
			return nil
		}
		_, err := d.compressNext(0)
		if err == errRoom { // it stays staged
			d.keepUp()
			return nil
		}
		return err
	case 'm':
		d.keepUp()
		return nil
	case 'w':
		req.Op = OpWrite
	case 'd', 'z':
		req.Op = OpDiscard
	}
	_, parked, err := d.submit(req)
	if !parked {
		return err
	}
	d.keepUp() // it waits for room
	d.sweep()  // or is a long discard
	if !answered {
		return fmt.Errorf("%v is still parked", o)
	}
	return answer
}

// run does the steps until the end or a crash, and says which step died.
func (d *disk) run(ops []operation, m *model) (died int, point string, err error) {
	died = len(ops)
	i := 0
	defer func() {
		if r := recover(); r != nil {
			c, ok := r.(invariants.Crash)
			if !ok {
				panic(r)
			}
			died, point = i, c.Point
		}
	}()
	for ; i < len(ops); i++ {
		if err := d.do(ops[i]); err != nil {
			return i, "", fmt.Errorf("step %d, %v: %w", i, ops[i], err)
		}
		m.apply(ops[i])
	}
	return died, "", nil
}

// apply does a step on the model.
func (m *model) apply(o operation) {
	switch o.kind {
	case 'w':
		copy(m.disk[o.off:], o.fill)
	case 'd', 'z':
		clear(m.disk[o.off : o.off+o.n])
	}
}

// Die at every store to shared memory, one after the other: the next
// generation rebuilds, dies at that too, and the one after it finds tables that
// agree with each other, and every page what it was before the step that died or
// what that step was making of it.
func TestCrashPoints(t *testing.T) {
	const size = 24 * PageSize
	seen := map[string]int{}
	for _, c := range []struct {
		seed   uint64
		frames int
		step   int64
	}{{1, 0, 1}, {1, 3, 1}, {2, 0, 5}, {2, 3, 5}, {3, 0, 5}, {3, 3, 5}} {
		t.Run(fmt.Sprintf("seed%d/frames%d", c.seed, c.frames), func(t *testing.T) {
			crashEverywhere(t, crashHistory(t, c.seed, size), size, c.frames, c.step, 1<<40, seen)
		})
	}
	t.Run("fragmented", func(t *testing.T) {
		const size = 192 * PageSize
		crashEverywhere(t, fragmentHistory(size), size, 0, 11, 1<<40, seen)
	})
	t.Run("chunk given back", func(t *testing.T) {
		const size = 640 * PageSize
		ops := []operation{{kind: 'd', n: size}, {kind: 'm'}, {kind: 'w', n: PageSize, fill: stamped(t, 1)}}
		for slot := range int64(size / PageSize) {
			ops = append([]operation{{kind: 'w', off: slot * PageSize, n: PageSize, fill: incompressible()}}, ops...)
		}
		crashEverywhere(t, ops, size, 0, 1, 60, seen)
	})
	for _, point := range []string{
		"frame.begin", "frame.half", "frame.filled", "frame.head",
		"frame.wipe.begin", "frame.wipe.head", "frame.wipe.half", "frame.wipe.end",
		"lane.count",
		"pool.commit.begin", "pool.commit.pages", "pool.commit.side",
		"pool.huge.begin", "pool.huge.half", "pool.huge.bytes", "pool.huge.side",
		"pool.move.begin", "pool.move.half", "pool.move.copied", "pool.move.published",
		"pool.punch.begin", "pool.punch.pages", "pool.punch.side",
		"pool.put.begin", "pool.put.half", "pool.put.bytes", "pool.put.header",
		"pool.wipe.begin", "pool.wipe.half", "pool.wipe.side", "pool.wipe.end",
		"recovery: frame.wipe.half", "recovery: lane.recount",
		"table.element", "table.element.stored", "table.presence", "table.store", "table.stored", "table.touch",
		"table.wipe", "table.wiped",
	} {
		if seen[point] == 0 {
			t.Errorf("nobody died at %s", point)
		}
	}
}

// crashEverywhere dies at every step-th of the last points of a history, and
// notes where.
func crashEverywhere(t *testing.T, ops []operation, size int64, frames int, step, last int64, seen map[string]int) {
	total := crashOnce(t, ops, size, frames, 0, seen)
	for k := max(1, total-last); k <= total; k += step {
		crashOnce(t, ops, size, frames, k, seen)
	}
	t.Logf("%d crash points in %d steps", total, len(ops))
}

func crashOptions(t *testing.T, size int64, frames int) options {
	return options{size: size, streams: 1, frames: frames, params: params(t, "lz4"), policy: stable.Snapshot,
		reserveLow: 32 << 10, reserveHigh: 64 << 10}
}

// crashOnce runs the steps with a death at the k-th point (0: none) and says
// how many points were passed.
func crashOnce(t *testing.T, ops []operation, size int64, frames int, k int64, points map[string]int) int64 {
	src := newSource(t)
	o := crashOptions(t, size, frames)
	d, err := createDisk(src, "zram0", o)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { src.Drop("zram0", d.region) }()
	if err := d.fillReserve(); err != nil {
		t.Fatal(err)
	}
	m := &model{disk: make([]byte, size)}
	invariants.Arm(k)
	died, point, err := d.run(ops, m)
	passed := invariants.Passed()
	invariants.Arm(0)
	if err != nil {
		t.Fatal(err)
	}
	points[point]++
	after := &model{disk: bytes.Clone(m.disk)}
	if died < len(ops) {
		after.apply(ops[died])
	}
	// The next generation dies too, somewhere, or just makes it.
	again := 1 + rand.New(rand.NewPCG(uint64(k), 5)).Int64N(12+3*int64(frames))
	points["recovery: "+adoptAndDie(t, d.region, o, again)]++
	next := succeed(t, d.region, o)
	page := make([]byte, PageSize)
	for slot := range uint64(size / PageSize) {
		at := int64(slot) * PageSize
		if err := next.readPage(0, slot, 0, page); err != nil {
			t.Fatalf("k %d, died in step %d at %s: %v", k, died, point, err)
		}
		if !bytes.Equal(page, m.disk[at:at+PageSize]) && !bytes.Equal(page, after.disk[at:at+PageSize]) {
			t.Fatalf("k %d, died in step %d (%v) at %s: slot %d is neither old nor new", k, died, ops[min(died, len(ops)-1)], point, slot)
		}
	}
	return passed
}

// adoptAndDie makes the next generation over a region, which dies at its k-th
// point; it says where, "" if it came through.
func adoptAndDie(t *testing.T, r *shm.Region, o options, k int64) (point string) {
	t.Helper()
	defer invariants.Arm(0)
	defer func() {
		if e := recover(); e != nil {
			c, ok := e.(invariants.Crash)
			if !ok {
				panic(e)
			}
			point = c.Point
		}
	}()
	invariants.Arm(k)
	if _, err := adoptDisk(r, o); err != nil {
		t.Fatal(err)
	}
	return ""
}

// succeed makes the next generation over a region, and sees that it works.
func succeed(t *testing.T, r *shm.Region, o options) *disk {
	t.Helper()
	next, err := adoptDisk(r, o)
	if err != nil {
		t.Fatal(err)
	}
	if err := next.check(); err != nil {
		t.Fatalf("Check after Rebuild: %v", err)
	}
	return next
}

// image is what lies in a region, by page.
type image map[int64][]byte

func imageOf(t *testing.T, r *shm.Region) image {
	t.Helper()
	m := image{}
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
func (m image) restore(t *testing.T, r *shm.Region) {
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
	before := imageOf(t, d.region)
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
		was, last, points := imageOf(t, d.region), "start", 0
		look := func(name string) {
			now := imageOf(t, d.region)
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
func unguarded(was, now image, l layout) string {
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
	return fmt.Sprintf("%d words change, from byte %d to %d of %+v, and %d pages go", len(words), first, end, l, punched)
}
