package blockdev

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/zramfs/zramfs/internal/shm"
)

// stalledDevice has some pages on a device that answers nothing any more, and the
// others in RAM. The device answers again when the test ends.
func stalledDevice(t *testing.T) (d *Device, m *memBacking, pages [][]byte, resume func()) {
	t.Helper()
	d, m = backedDevice(t, 64, 64, "writeback_promote=0")
	pages = fillPages(t, d, 64)
	set(t, d, "writeback=page_indexes=0-31")
	stall := make(chan struct{})
	m.set(func() { m.stall = stall })
	resume = sync.OnceFunc(func() {
		m.set(func() { m.stall = nil })
		close(stall)
	})
	t.Cleanup(resume)
	return d, m, pages, resume
}

// askAway has every page on the device read, and gives what comes of it.
func askAway(t *testing.T, d *Device) (requests []*Request, answered chan *Request) {
	t.Helper()
	answered = make(chan *Request, 64)
	for slot := range uint64(32) {
		if d.disk.Load().table.load(slot).state() != backed {
			continue
		}
		r := &Request{Op: OpRead, Data: make([]byte, PageSize), Off: int64(slot) * PageSize, Done: func(r *Request, n int, err error) {
			if n != PageSize {
				r.Tag = errors.Join(err, errors.New("a short read"))
			}
			answered <- r
		}}
		if _, parked, err := d.Submit(r); !parked {
			t.Fatalf("slot %d is answered: %v", slot, err)
		}
		requests = append(requests, r)
	}
	return requests, answered
}

// What a pass has left to a device that stalls may be written yet, and stays charged
// to the budget, unless the device says that it has failed.
func TestBudgetOfStalledWrite(t *testing.T) {
	for _, fails := range []bool{false, true} {
		d, m := backedDevice(t, 64, 64, "writeback_limit=50", "writeback_limit_enable=1", "writeback_batch_size=8")
		pages := fillPages(t, d, 64)
		stall := make(chan struct{})
		m.set(func() {
			m.stall = stall
			if fails {
				m.write = func(int64) error { return errors.New("no") }
			}
		})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() {
			_, err := d.disk.Load().writebackPass(ctx, writebackOptions{selectors: []selector{{}}})
			ended <- err
		}()
		eventually(t, "that the pass waits for the device", func() bool { return m.stalled.Load() > 0 })
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("the pass that was interrupted: %v", err)
		}
		if got := show(t, d, "writeback_limit"); got != "42\n" {
			t.Errorf("50 may be written, 8 are under way, and %q are left", got)
		}
		m.set(func() { m.stall = nil })
		close(stall)
		eventually(t, "that no block is held", func() bool { return d.Backing().Used == 0 })
		want, s := "42\n", d.Backing()
		if fails {
			want = "50\n"
		}
		if got := show(t, d, "writeback_limit"); got != want || fails != (s.Writes == 0) || fails != (s.WriteErrors == 1) {
			t.Errorf("fails %v: %q are left, want %q; %+v", fails, got, want, s)
		}
		wantPages(t, d, pages)
	}
}

// A page that changes while it is written was written all the same: no more blocks
// are than were asked for.
func TestWritebackOfChangingPages(t *testing.T) {
	for _, packed := range []string{"0", "1"} {
		d, m := backedDevice(t, 64, 64, "writeback_batch_size=4", "compressed_writeback="+packed)
		pages := make([][]byte, 64)
		m.set(func() {
			m.write = func(int64) error {
				for slot := range pages {
					write(t, d, pages[slot], int64(slot)*PageSize)
				}
				return nil
			}
		})
		for slot := range pages {
			pages[slot] = incompressible()
			write(t, d, pages[slot], int64(slot)*PageSize)
		}
		r, err := d.disk.Load().writebackPass(t.Context(), writebackOptions{selectors: []selector{{}}, maxPages: 10})
		if err != nil || r.pages != 0 || r.blocks == 0 || r.blocks > 10 {
			t.Errorf("%d pages are there and %d blocks were written, want 10 at most: %v", r.pages, r.blocks, err)
		}
		wantPages(t, d, pages)
	}
}

// A device that answers nothing holds up nobody but who wants a page that is on
// it: pages in RAM are read and written, pages on it are overwritten and
// discarded, the disk is checked, compacted and told about. When the device
// answers again, so does everything.
func TestStalledDevice(t *testing.T) {
	d, m, pages, resume := stalledDevice(t)
	requests, answered := askAway(t, d)
	eventually(t, "that reads wait for the device", func() bool { return m.stalled.Load() == fetchers })
	for slot := uint64(32); slot < 64; slot++ {
		wantPage(t, d, slot, pages[slot])
		write(t, d, pages[slot], int64(slot)*PageSize)
	}
	pages[1] = stamped(t, 12345)
	write(t, d, pages[1], PageSize)
	wantPage(t, d, 1, pages[1])
	if err := d.Discard(2*PageSize, PageSize); err != nil {
		t.Fatal(err)
	}
	clear(pages[2])
	wantPage(t, d, 2, pages[2])
	set(t, d, "compact=1", "idle=all", "check=1")
	if err := d.Check(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "that requests are said to wait", func() bool { return d.Backing().Waiting > 0 })
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() {
		_, err := d.disk.Load().writebackPass(ctx, writebackOptions{selectors: []selector{{lo: 32}}})
		ended <- err
	}()
	eventually(t, "that a write waits for the device", func() bool { return m.stalled.Load() > fetchers })
	if err := store(d, "writeback", "huge"); !errors.Is(err, ErrAgain) {
		t.Errorf("a second pass: %v", err)
	}
	for slot := uint64(32); slot < 64; slot++ {
		wantPage(t, d, slot, pages[slot])
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("an interrupted pass: %v", err)
	}
	if n := len(answered); n > 2 { // the check let the two see that their pages are in RAM
		t.Errorf("%d reads are answered by a device that answers nothing", n)
	}
	resume()
	for range requests {
		r := <-answered
		slot := r.Off / PageSize
		if r.Tag != nil || !bytes.Equal(r.Data, pages[slot]) {
			t.Errorf("slot %d: %v", slot, r.Tag)
		}
	}
	eventually(t, "that nothing waits for the device", func() bool { return m.stalled.Load() == 0 })
	wantPages(t, d, pages)
	set(t, d, "writeback=page_indexes=32-63")
	wantPages(t, d, pages)
}

// Whoever waits for a device that stalls is told when the disk is reset, which
// does not wait for the device either. What comes of the device later is nobody's.
func TestResetOfStalledDevice(t *testing.T) {
	d, m, _, resume := stalledDevice(t)
	requests, answered := askAway(t, d)
	eventually(t, "that reads wait for the device", func() bool { return m.stalled.Load() == fetchers })
	go func() { _ = store(d, "writeback", "page_indexes=32-63") }()
	eventually(t, "that a write waits for the device", func() bool { return m.stalled.Load() > fetchers })
	key := &d.disk.Load().back.kept.key
	if bytes.Equal(key[:], make([]byte, len(key))) {
		t.Error("there is no key")
	}
	if err := d.Reset(); err != nil {
		t.Fatal(err)
	}
	for range requests {
		if r := <-answered; r.Tag == nil {
			t.Error("a read of a disk that is gone has no error")
		}
	}
	resume()
	eventually(t, "that nothing waits for the device", func() bool { return m.stalled.Load() == 0 })
	if err := d.SetSize(8 * PageSize); err != nil {
		t.Fatal(err)
	}
}

// Another generation finds what was written back, and reads it with the key that
// it finds; without the device it serves what is in RAM.
func TestBackingAdopted(t *testing.T) {
	for _, lost := range []bool{false, true} {
		src, m := newSource(t), newMemBacking(64)
		cfg := testConfig(t)
		cfg.Source, cfg.Backing, cfg.Ledger = src, backings{"dev": m}, make([]byte, LedgerBytes)
		first, err := NewSet(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := first.HotAdd(); err != nil {
			t.Fatal(err)
		}
		d := first.Device(0)
		set(t, d, "backing_dev=dev", "compressed_writeback=1", "writeback_limit_enable=1", "writeback_limit=100", "writeback_promote=0")
		if err := d.SetSize(64 * PageSize); err != nil {
			t.Fatal(err)
		}
		pages := fillPages(t, d, 64)
		set(t, d, "writeback=page_indexes=0-31")
		was, left := d.Backing(), show(t, d, "writeback_limit")
		for slot, w := range d.disk.Load().table.each { // a page was about to be overwritten with an element
			if w.state() == backed {
				d.disk.Load().table.store(slot, w|flagReplaced)
				break
			}
		}
		region := d.disk.Load().region
		first.Abandon()

		if lost {
			m.opened = false
		}
		next, err := NewSet(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := next.Adopt(map[string]*shm.Region{"zram0": region}); err != nil {
			t.Fatal(err)
		}
		d = next.Device(0)
		if lost {
			for slot := range uint64(64) {
				if d.disk.Load().table.load(slot).state() != backed {
					wantPage(t, d, slot, pages[slot])
				} else if _, err := d.ReadAt(make([]byte, PageSize), int64(slot)*PageSize); !errors.Is(err, ErrCorrupt) {
					t.Errorf("slot %d: %v", slot, err)
				}
			}
			if err := store(d, "writeback", "idle"); !errors.Is(err, ErrNoDevice) {
				t.Errorf("writeback: %v", err)
			}
		} else {
			if now := d.Backing(); now.Used != was.Used || now.Writes != was.Writes || show(t, d, "writeback_limit") != left {
				t.Errorf("%+v became %+v, the budget %s became %s", was, now, left, show(t, d, "writeback_limit"))
			}
			wantPages(t, d, pages)
			set(t, d, "writeback=page_indexes=32-63")
			wantPages(t, d, pages)
			if err := d.Check(); err != nil {
				t.Error(err)
			}
		}
		if err := next.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
