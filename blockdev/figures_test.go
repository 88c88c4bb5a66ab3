package blockdev

import (
	"errors"
	"testing"
	"time"
)

// TestFigures: what is stored, what waits and what failed, told without
// allocating.
func TestFigures(t *testing.T) {
	cfg := testConfig(t)
	cfg.MemLimit, cfg.LimitWait = 4<<20, time.Hour
	d := newDevice(t, 0, cfg)
	if f := d.Figures(); f != (Figures{}) {
		t.Errorf("without a disk: %+v", f)
	}
	if err := d.SetSize(64 << 20); err != nil {
		t.Fatal(err)
	}
	page := incompressible()
	const pages = 500
	for i := range pages {
		if _, err := d.WriteAt(page, int64(i)*PageSize); err != nil {
			t.Fatal(err)
		}
	}
	f := d.Figures()
	if f.Pages != pages || f.Bytes != pages*PageSize || f.Huge != pages || f.Used < pages || f.Limit != 4<<20/PageSize || f.Waiting != 0 ||
		f.FailedWrites != 0 || f.Requests != pages || f.Compressed != pages || f.Stored != pages*PageSize {
		t.Errorf("with %d random pages: %+v", pages, f)
	}
	// Twice as many more do not fit: they wait.
	answers := make(chan error, 2*pages)
	for i := range 2 * pages {
		r := &Request{Op: OpWrite, Data: page, Off: int64(pages+i) * PageSize}
		r.Done = func(_ *Request, _ int, err error) { answers <- err }
		if _, parked, err := d.Submit(r); !parked {
			answers <- err
		}
	}
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(time.Millisecond) {
		// Upkeep has them in its hands now and then.
		if f := d.Figures(); f.Waiting > 0 && f.Used <= f.Limit {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("nobody waits: %+v", d.Figures())
		}
	}
	if n := testing.AllocsPerRun(100, func() { d.Figures() }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if err := d.Discard(0, pages*PageSize); err != nil {
		t.Fatal(err)
	}
	for range 2 * pages {
		if err := <-answers; err != nil {
			t.Error(err)
		}
	}
	if f := d.Figures(); f.Waiting != 0 {
		t.Errorf("with room again: %+v", f)
	}
}

// TestFiguresAway: who waits for a backing device that stalls is counted until it
// answers, though somebody holds the list of those who do.
func TestFiguresAway(t *testing.T) {
	d, m, _, resume := stalledDevice(t)
	if f := d.Figures(); f.Away != 0 {
		t.Errorf("%d requests wait already", f.Away)
	}
	requests, answered := askAway(t, d)
	eventually(t, "that reads wait for the device", func() bool { return m.stalled.Load() == fetchers })
	list := &d.disk.Load().back.away
	list.mu.Lock()
	before := d.Figures()
	n := testing.AllocsPerRun(100, func() { d.Figures() })
	after := d.Figures()
	list.mu.Unlock()
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
	if len(requests) == 0 || before.Away != int64(len(requests)) || after != before {
		t.Errorf("%d requests wait: %+v, then %+v", len(requests), before, after)
	}
	resume()
	for range requests {
		<-answered
	}
	if f := d.Figures(); f.Away != 0 {
		t.Errorf("%d requests still seem to wait", f.Away)
	}
}

// TestPopulatePart commits the tables of one part of a sparse disk, and no more.
func TestPopulatePart(t *testing.T) {
	d := newDevice(t, 1<<40, testConfig(t))
	region := d.disk.Load().region
	resident := func() int64 {
		n, err := region.Resident()
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	before := resident()
	const part = 64 << 20
	if err := d.Populate(5<<30, part); err != nil {
		t.Fatal(err)
	}
	if grown := resident() - before; grown != part/PageSize*20 {
		t.Errorf("%d bytes of tables for %d slots", grown, part/PageSize)
	}
	before = resident()
	page := incompressible()
	for _, off := range []int64{5 << 30, 5<<30 + part - PageSize} {
		write(t, d, page, off)
	}
	if grown := resident() - before; grown > 4<<20 {
		t.Errorf("two pages took %d bytes", grown)
	}
	for _, c := range [][2]int64{{-1, 1}, {0, -1}, {1 << 40, 1}, {0, 1<<40 + 1}} {
		if err := d.Populate(c[0], c[1]); !errors.Is(err, ErrInvalid) {
			t.Errorf("populate [%d, +%d): %v", c[0], c[1], err)
		}
	}
}
