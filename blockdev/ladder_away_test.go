package blockdev

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"
)

// chill makes every page of a disk cold.
func chill(d *Device) {
	t := d.disk.Load().table
	for slot := range t.slots() {
		atomic.StoreUint32(&t.atimes[slot], 0)
	}
}

// Writeback is a rung where there is a backing device: a limit far below what is
// stored is reached, and every page can still be read.
func TestWritebackIsARung(t *testing.T) {
	d, _ := backedDevice(t, 512, 2048, "limit_policy=compact,recompress,writeback,wait=1m")
	pages := fillPages(t, d, 400)
	chill(d)
	limit := used(d) / 2
	set(t, d, fmt.Sprintf("mem_limit=%d", limit*PageSize))
	eventually(t, "a lower limit", func() bool { return used(d) <= limit })
	eventually(t, "a count of it", func() bool {
		tried, freed, _ := limitRow(t, d, "writeback")
		return tried > 0 && freed > 0
	})
	if states(d, backed) == 0 {
		t.Error("no page is on the device")
	}
	for i := range uint64(100) {
		write(t, d, incompressible(), int64(400+i)*PageSize)
		if i%10 == 0 {
			chill(d)
		}
	}
	wantPages(t, d, pages)
}

// A backing device that stalls keeps no other rung from being climbed.
func TestStalledDeviceIsNoLadder(t *testing.T) {
	const slots = 4096
	d, m := backedDevice(t, slots, 8192, "limit_policy=writeback,compact,wait=1m")
	left := fragmented(t, d, slots)
	chill(d)
	stall := make(chan struct{})
	m.set(func() { m.stall = stall })
	set(t, d, fmt.Sprintf("mem_limit=%d", used(d)*PageSize))
	for n := range uint64(used(d) / 4) {
		slot := n/4*5 + n%4 + 1
		left[slot] = incompressible()
		write(t, d, left[slot], int64(slot)*PageSize)
	}
	eventually(t, "a stall", func() bool { return m.stalled.Load() > 0 })
	if _, freed, _ := limitRow(t, d, "compact"); freed == 0 {
		t.Error("compact has freed nothing")
	}
	m.set(func() { m.stall = nil })
	close(stall)
	eventually(t, "the end of the stall", func() bool { return m.stalled.Load() == 0 })
	for slot, page := range left {
		wantPage(t, d, slot, page)
	}
}

// A write that has waited for room for one page, and then for the device, waits
// anew when there is no room for the next.
func TestWriteWaitsAnewAfterDevice(t *testing.T) {
	d, m := backedDevice(t, 16, 16, "limit_policy=wait=1h")
	k := d.disk.Load()
	page := incompressible()
	write(t, d, page, PageSize)
	set(t, d, "writeback=page_index=1")
	for slot := range int64(4) {
		write(t, d, incompressible(), (2+slot)*PageSize)
	}
	set(t, d, fmt.Sprintf("mem_limit=%d", used(d)*PageSize))
	stall := make(chan struct{})
	m.set(func() { m.stall = stall })
	data := append(incompressible(), incompressible()[:PageSize/2]...)
	answer := make(chan error, 1)
	if _, parked, err := d.Submit(&Request{Op: OpWrite, Data: data, Done: func(_ *Request, _ int, err error) { answer <- err }}); !parked {
		t.Fatalf("a write beyond the limit: %v", err)
	}
	room := func(slot int64) {
		t.Helper()
		if err := d.Discard(slot*PageSize, PageSize); err != nil {
			t.Fatal(err)
		}
	}
	room(2)
	eventually(t, "that the write waits for the device", func() bool { return m.stalled.Load() > 0 })
	k.back.away.mu.Lock()
	if r := k.back.away.first; r == nil {
		t.Error("the write does not wait")
	} else if !r.until.IsZero() {
		r.until = time.Now().Add(-time.Hour) // so long does the device stall
	}
	k.back.away.mu.Unlock()
	m.set(func() { m.stall = nil })
	close(stall)
	eventually(t, "that the write waits for room", func() bool { return k.account.waiters.Load() > 0 || len(answer) > 0 })
	room(3)
	if err := <-answer; err != nil {
		t.Errorf("a write that has not waited: %v", err)
	} else {
		copy(page, data[PageSize:])
		wantPage(t, d, 0, data[:PageSize])
		wantPage(t, d, 1, page)
	}
}

// A device that stalls is given up after a while, so that other passes run again,
// and let be for longer than that.
func TestStalledDeviceIsLetBe(t *testing.T) {
	m := newMemBacking(256)
	cfg := testConfig(t)
	cfg.Backing = backings{"dev": m}
	cfg.faults = &faults{device: 50 * time.Millisecond}
	d := newDevice(t, 0, cfg)
	set(t, d, "backing_dev=dev", "recomp_algorithm=algo=zstd priority=1")
	if err := d.SetSize(256 * PageSize); err != nil {
		t.Fatal(err)
	}
	pages := fillPages(t, d, 200)
	chill(d)
	k := d.disk.Load()
	stall := make(chan struct{})
	m.set(func() { m.stall = stall })
	if freed, ready := k.writebackSome(t.Context(), 64); freed != 0 || !ready && m.stalled.Load() == 0 {
		t.Errorf("a device that stalls has freed %d pages, asked %v", freed, ready)
	}
	if freed, ready := k.recompressSome(t.Context(), 64); freed == 0 || !ready {
		t.Errorf("recompression beside it has freed %d pages, tried %v", freed, ready)
	}
	if _, ready := k.writebackSome(t.Context(), 64); ready || m.stalled.Load() != 1 {
		t.Errorf("the device is asked again: %v, and has %d writes", ready, m.stalled.Load())
	}
	m.set(func() { m.stall = nil })
	close(stall)
	eventually(t, "the end of the stall", func() bool { return m.stalled.Load() == 0 })
	k.ladder.awayFrom = time.Time{} // the rest is over
	if freed, ready := k.writebackSome(t.Context(), 64); freed == 0 || !ready || k.ladder.awayRest != 0 {
		t.Errorf("the device has freed %d pages, asked %v", freed, ready)
	}
	wantPages(t, d, pages)
}
