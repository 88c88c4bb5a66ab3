//go:build crashpoints

package keeper

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/zramfs/zramfs/blockdev"
	"github.com/zramfs/zramfs/internal/host"
	"github.com/zramfs/zramfs/internal/invariants"
	"github.com/zramfs/zramfs/internal/shm"
)

// words is all that a plan consists of, and what must be so when it begins.
func (p *roomPage) words() string {
	return fmt.Sprint(p.total.Load(), p.segment.Load(), p.cap.Load(), p.priority.Load(), p.guarded.Load(), p.loops[0].Load(), p.loops[1].Load(),
		"wanted", p.wanted.Load(), p.populated.Load(), p.enabled.Load(), p.free.Load(), p.wasOn.Load(), p.halted.Load(), p.hurry.Load(),
		"lease", p.lease.Load(), p.errno.Load(), p.settled.Load())
}

// used is a page of swap that was in use, with everything that can stand there.
func used() *roomPage {
	p := &roomPage{}
	p.plan(&swapOrder{Loops: []int{7, 8}, Segment: 500, Cap: 900})
	for i, word := range []interface{ Store(int64) }{&p.wanted, &p.populated, &p.enabled, &p.free, &p.wasOn, &p.halted, &p.hurry, &p.lease, &p.errno, &p.settled} {
		word.Store(int64(i) + 1)
	}
	return p
}

// A keeper dies at every point while it takes a plan in the place of another. The
// next one finds the plan before, none, or the new one, and never a mixture; and
// who asks again has the new one, as if nobody had died.
func TestCrashInSwapPlan(t *testing.T) {
	seen := points{}
	before := swapOrder{Loops: []int{7, 8}, Segment: 500, Cap: 900}
	o := swapOrder{Loops: []int{3, 4}, Segment: 1000, Cap: 2000, Priority: 5, Watchdog: true}
	keep := func(p *roomPage) {
		if !p.has(&o) {
			p.dropPlan()
			p.plan(&o)
		}
		p.clear()
	}
	calm := used()
	keep(calm)
	for k, first := int64(1), "?"; first != ""; k++ {
		for m, second := int64(0), "?"; second != "" || m == 1; m++ {
			p := used()
			first = seen.dies(k, func() { keep(p) })
			if second = ""; m > 0 {
				second = seen.dies(m, func() { keep(p) })
			}
			if p.total.Load() != 0 && !p.has(&o) && !p.has(&before) {
				t.Errorf("died at %q and %q: the next keeper finds %s", first, second, p.words())
			}
			keep(p)
			if p.words() != calm.words() {
				t.Errorf("died at %q and %q: there is %s, want %s", first, second, p.words(), calm.words())
			}
		}
	}
	seen.has(t, "room.drop", "room.dropped", "room.plan", "room.plan.loop", "room.plan.total", "room.planned", "room.clear", "room.cleared")
}

// A worker dies at every point while it tells figures: the beat goes on, and what
// the next one tells is all its own.
func TestCrashInFigures(t *testing.T) {
	seen := points{}
	a := blockdev.Figures{Pages: 1, Bytes: 2, Huge: 3, Used: 4, Limit: 5, Waiting: 6, Away: 7, FailedWrites: 8, Requests: 9, Compressed: 10, Stored: 11}
	b := blockdev.Figures{Pages: 21, Bytes: 22, Huge: 23, Used: 24, Limit: 25, Waiting: 26, Away: 27, FailedWrites: 28, Requests: 29, Compressed: 30, Stored: 31}
	for k, point := int64(1), "?"; point != ""; k++ {
		p := &roomPage{}
		p.publish(a)
		point = seen.dies(k, func() { p.publish(b) })
		beat := p.beat.Load()
		if told := point == "" || point == "room.published"; told != (beat == 2) {
			t.Errorf("died at %q: beat %d", point, beat)
		}
		p.publish(a)
		want := figures{beat: beat + 1, pages: 1, bytes: 2, huge: 3, used: 4, limit: 5, waiting: 6, away: 7, failed: 8, requests: 9,
			compressed: 10, stored: 11}
		if f := p.look(); f != want {
			t.Errorf("died at %q: the next worker told %+v", point, f)
		}
	}
	seen.has(t, "room.figures", "room.beat", "room.published")
}

// regions makes regions that nobody holds.
type regions struct{ *shm.Source }

func (regions) Drop(_ string, r *shm.Region) { _ = r.Close() }

// A worker dies at every point while it commits the tables of segments: the next
// one goes on, and no segment is said to be there that is not.
func TestCrashInPopulate(t *testing.T) {
	set, err := blockdev.NewSet(blockdev.Config{Source: regions{shm.AdoptSource(nil)}, Streams: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer set.Close()
	if _, err := set.HotAdd(); err != nil {
		t.Fatal(err)
	}
	if err := storeAttribute(set, 0, "disksize", "4M"); err != nil {
		t.Fatal(err)
	}
	seen := points{}
	for k, point := int64(1), "?"; point != ""; k++ {
		p := &roomPage{}
		p.plan(&swapOrder{Loops: []int{1, 2, 3}, Segment: 256, Cap: 900})
		p.wanted.Store(3)
		done := int64(0)
		invariants.Watch(func(name string) {
			if name == "room.populate" {
				done++
			}
		})
		point = seen.dies(k, func() { (&roomKeeper{page: p}).populate(set.Device(0)) })
		invariants.Watch(nil)
		if n := p.populated.Load(); n > done {
			t.Errorf("died at %q: %d segments are said to be populated, and %d are", point, n, done)
		}
		(&roomKeeper{page: p}).populate(set.Device(0))
		if n := p.populated.Load(); n != 3 {
			t.Errorf("died at %q: the next worker has populated %d segments", point, n)
		}
	}
	seen.has(t, "room.populate", "room.populated")
}

// newEnabler is one for loop devices that are not there: a swapon(2) of them fails.
func newEnabler(t *testing.T, p *roomPage) *enabler {
	t.Helper()
	e := &enabler{page: p, planner: planner{segment: p.segment.Load(), cap: p.cap.Load()}}
	for i := range p.total.Load() {
		e.devices = append(e.devices, host.PrepareSwapDevice(int(p.loops[i].Load()), 0))
	}
	var err error
	if e.meter, err = host.OpenMeter(); err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { e.meter.Close() })
	return e
}

// The keeper dies at every point of its thread's look at segments: one that somebody
// has turned off stays off, and the next thread comes to the same figures. (That a
// segment is enabled and its bit is not there yet is what the next look finds in
// /proc/swaps.)
func TestCrashInEnabler(t *testing.T) {
	seen := points{}
	for _, c := range []struct {
		name   string
		wasOn  int64
		leased bool
		halted int64
		errors bool // a swapon(2) that fails is tried
	}{
		{"turned off by hand", 0b01, false, 1, false},
		{"turned off by swapoff", 0b11, true, 0, false},
		{"to be enabled", 0, false, 0, true},
	} {
		begin := func() *roomPage {
			p := &roomPage{}
			p.plan(&swapOrder{Loops: []int{1 << 20, 1<<20 + 1}, Segment: 1000, Cap: 20000})
			p.publish(blockdev.Figures{Pages: 100, Bytes: 100 << 10, Used: 40, Limit: 20000})
			p.wasOn.Store(c.wasOn)
			p.populated.Store(2)
			if c.leased {
				p.lease.Store(1 << 62)
			}
			return p
		}
		calm := begin()
		newEnabler(t, calm).step()
		if calm.halted.Load() != c.halted || (calm.errno.Load() != 0) != c.errors || calm.wasOn.Load() != 0 {
			t.Errorf("%s: halted %d, errno %d, on %b", c.name, calm.halted.Load(), calm.errno.Load(), calm.wasOn.Load())
		}
		for k, point := int64(1), "?"; point != ""; k++ {
			p := begin()
			e := newEnabler(t, p)
			point = seen.dies(k, func() { e.step() })
			newEnabler(t, p).step()
			if p.words() != calm.words() || p.ratio.Load() != calm.ratio.Load() || p.room.Load() != calm.room.Load() || p.held.Load() != calm.held.Load() {
				t.Errorf("%s: died at %q: there is %s, want %s", c.name, point, p.words(), calm.words())
			}
		}
	}
	seen.has(t, "room.halt", "room.off", "room.look", "room.hurry", "room.settle", "room.want", "room.errno")
}

// The keeper dies while its watchdog notes that it has asked for the OOM killer: the
// next keeper's knows when that was, but for the one store that makes it known, and
// lets the process die that was hit.
func TestCrashInGuardian(t *testing.T) {
	seen := points{}
	for k, point := int64(1), "?"; point != ""; k++ {
		page, _, trigger := guarded(t, true)
		page.free.Store(100)
		page.waiting.Store(3)
		page.beat.Store(2)
		f, err := os.OpenFile(trigger, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		g := guardian{page: page, crash: &crashRecord{}, trigger: f, scarce: func(int64, int64) bool { return true }}
		if g.meter, err = host.OpenMeter(); err != nil {
			t.Skip(err)
		}
		now := monotonic()
		g.dog = watchdog{beat: 1, heard: now, full: now - 2*fullTime, quiet: now} // it is about to
		point = seen.dies(k, func() { g.look() })
		f.Close()
		g.meter.Close()
		if text, err := os.ReadFile(trigger); err != nil || string(text) != string(rune(sysrqKill)) {
			t.Fatalf("died at %q: %q was written, %v", point, text, err)
		}
		if known := page.last.Load() != 0; known != (point != "room.fire") || page.fired.Load() > 1 {
			t.Errorf("died at %q: it is known: %v; fired %d times", point, known, page.fired.Load())
		}
		loops, err := filepath.Glob("/sys/block/loop0/inflight")
		if err != nil || len(loops) == 0 {
			continue // the rest takes a loop device
		}
		page.halted.Store(1)
		page.plan(&swapOrder{Loops: []int{0}, Segment: 1000, Cap: 2000})
		next, err := startSwapThreads(page, &crashRecord{}, filepath.Join(t.TempDir(), "none"), nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		next.stop.Store(true)
		next.ended.Wait()
		next.close()
		if next.guard.dog.fired != page.last.Load() {
			t.Errorf("died at %q: the next watchdog has last fired at %d, and that was at %d", point, next.guard.dog.fired, page.last.Load())
		}
	}
	seen.has(t, "room.fire", "room.fired", "room.fired.counted")
}
