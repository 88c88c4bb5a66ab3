//go:build crashpoints

package blockdev

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/zramfs/zramfs/compress"
	"github.com/zramfs/zramfs/internal/invariants"
	"github.com/zramfs/zramfs/internal/shm"
	"github.com/zramfs/zramfs/stable"
)

// crashHistory is a list of steps that passes every kind of store to shared
// memory: whole and partial writes, same-filled and incompressible pages,
// overwrites, discards, staging and its end, compaction, commit and punch, marks
// of idle pages, recompression, and other algorithms.
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
		case 3:
			o = drawControl(r)
		}
		if o.kind != 'r' && o.kind != 'f' {
			ops = append(ops, o)
		}
	}
	ops[10], ops[20] = operation{kind: 'a', n: 2}, operation{kind: 'a', n: 1}
	ops[12], ops[14] = operation{kind: 'p', n: 1}, operation{kind: 'i'}
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
		_, err := d.compact(context.Background())
		return err
	case 'i':
		_, err := d.markIdle(context.Background(), 0)
		return err
	case 'p':
		_, err := d.recompressPass(context.Background(), recompressOptions{selector: selector{idle: o.n%2 == 0}, maxPages: o.n % 4})
		if errors.Is(err, ErrNoSpace) { // nobody makes room meanwhile
			d.keepUp()
			return nil
		}
		return err
	case 'a':
		return d.use(wanted{params: []compress.Params{{Codec: "lz4", Level: 9}, {Codec: "lz4", Level: 3}, {Codec: "lz4", Dict: make([]byte, 5000)}}[o.n%3]})
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
	case 'l':
		d.climbUnder(o.n)
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
		crashEverywhere(t, fragmentHistory(size), size, 0, 1, 40, seen, "pool.move")
	})
	t.Run("chunk given back", func(t *testing.T) {
		const size = 640 * PageSize
		ops := []operation{{kind: 'd', n: size}, {kind: 'm'}, {kind: 'w', n: PageSize, fill: stamped(t, 1)}}
		for slot := range int64(size / PageSize) {
			ops = append([]operation{{kind: 'w', off: slot * PageSize, n: PageSize, fill: incompressible()}}, ops...)
		}
		crashEverywhere(t, ops, size, 0, 1, 60, seen)
		crashEverywhere(t, ops, size, 0, 1, 16, seen, "pool.huge")
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
		"after recompression",
		"life.dictionary", "life.dictionary.half", "life.dictionary.end",
		"life.params", "life.params.begin", "life.params.half", "life.params.end",
	} {
		if seen[point] == 0 {
			t.Errorf("nobody died at %s", point)
		}
	}
}

// crashEverywhere dies at every step-th of the last points of a history, and
// notes where. With prefixes only points count whose names begin with one of
// them: those that a larger step might miss.
func crashEverywhere(t *testing.T, ops []operation, size int64, frames int, step, last int64, seen map[string]int,
	prefixes ...string) {
	total := crashOnce(t, ops, size, frames, 0, seen, prefixes...)
	for k := max(1, total-last); k <= total; k += step {
		crashOnce(t, ops, size, frames, k, seen, prefixes...)
	}
	t.Logf("%d crash points in %d steps", total, len(ops))
}

func crashOptions(t *testing.T, size int64, frames int) options {
	return options{size: size, streams: 1, frames: frames, params: params(t, "lz4(level=9)"), policy: stable.Snapshot,
		recomp:     []wanted{{params: params(t, "lz4"), prio: 1}}, // quick to set up, and mostly better
		reserveLow: 32 << 10, reserveHigh: 64 << 10}
}

// crashOnce runs the steps with a death at the k-th point (0: none) and says
// how many points were passed.
func crashOnce(t *testing.T, ops []operation, size int64, frames int, k int64, points map[string]int, prefixes ...string) int64 {
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
	invariants.Arm(k, prefixes...)
	died, point, err := d.run(ops, m)
	passed := invariants.Passed()
	invariants.Arm(0)
	if err != nil {
		t.Fatal(err)
	}
	points[point]++
	if d.kept.pp.recompressed.Load() > 0 {
		points["after recompression"]++
	}
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
	invariants.Arm(k)
	return invariants.DiesAt(func() {
		if _, err := adoptDisk(r, o); err != nil {
			t.Fatal(err)
		}
	})
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
