package blockdev

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// Pages of every kind go to the device and come back, whichever way they are
// written there; what lies there is no plain text unless that was asked for.
func TestWriteback(t *testing.T) {
	for _, packed := range []string{"0", "1"} {
		for _, plain := range []string{"0", "1"} {
			t.Run(fmt.Sprintf("packed %s plain %s", packed, plain), func(t *testing.T) {
				const n = 200
				d, m := backedDevice(t, n, n, "compressed_writeback="+packed, "writeback_plain="+plain, "writeback_promote=0")
				pages := fillPages(t, d, n)
				before := d.memory()
				set(t, d, "idle=all", "writeback=type=idle")
				after := d.memory()
				s := d.Backing()
				if got := states(d, backed); got != n/4*3 {
					t.Fatalf("%d pages are on the device", got)
				}
				if after.pages != n || after.same != n/4 || after.huge != 0 || after.bytes != 0 {
					t.Errorf("mm_stat: %+v", after.sums)
				}
				if after.used >= before.used/4 {
					t.Errorf("%d pages of memory before, %d after", before.used, after.used)
				}
				switch {
				case s.Used != s.Writes:
					t.Errorf("%d blocks hold something, %d were written", s.Used, s.Writes)
				case packed == "0" && s.Used != n/4*3:
					t.Errorf("%d blocks for %d pages", s.Used, n/4*3)
				case packed == "1" && s.Used > n/2+n/8:
					t.Errorf("%d blocks for %d pages, half of which compress well", s.Used, n/4*3)
				}
				if found := m.contains(pages[1][100:200]); found != (plain == "1") {
					t.Errorf("plain text on the device: %v", found)
				}
				if bytes.Count([]byte(show(t, d, "block_state")), []byte("w")) != n/4*3 {
					t.Errorf("block_state: %s", show(t, d, "block_state"))
				}
				wantPages(t, d, pages)
				if s := d.Backing(); s.Reads < n/4*3 || states(d, backed) != n/4*3 {
					t.Errorf("%d reads", s.Reads)
				}
				if err := d.Check(); err != nil {
					t.Fatal(err)
				}
				write(t, d, pages[2], 5*PageSize) // a whole page needs no read
				pages[5] = pages[2]
				part := []byte("a part of a page that is not in RAM")
				write(t, d, part, 6*PageSize+100)
				copy(pages[6][100:], part)
				if err := d.Discard(9*PageSize+512, 1024); err != nil {
					t.Fatal(err)
				}
				clear(pages[9][512:1536])
				write(t, d, bytes.Repeat([]byte("8 bytes."), PageSize/8), 10*PageSize) // takes the CRC's place
				pages[10] = bytes.Repeat([]byte("8 bytes."), PageSize/8)
				wantPages(t, d, pages)
				if got := states(d, backed); got != n/4*3-4 {
					t.Errorf("%d pages are on the device", got)
				}
				if err := d.Discard(0, n*PageSize); err != nil {
					t.Fatal(err)
				}
				eventually(t, "that no block is held", func() bool { return d.Backing().Used == 0 })
				if packed != plain { // it takes a second
					return
				}
				eventually(t, "the discard on the device", func() bool { return m.discards.Load() >= s.Used })
				fillPages(t, d, n)
				huge := d.memory().huge
				set(t, d, "writeback=huge")
				if got := states(d, backed); int64(got) != huge || huge < n/4 {
					t.Errorf("%d of %d huge pages are on the device", got, huge)
				}
			})
		}
	}
}

// What each misuse returns is as of the kernel.
func TestWritebackErrors(t *testing.T) {
	m := newMemBacking(64)
	cfg := testConfig(t)
	cfg.Backing = backings{"dev": m}
	d := newDevice(t, 0, cfg)
	fails := func(name, value string, want error) {
		t.Helper()
		if err := store(d, name, value); !errors.Is(err, want) {
			t.Errorf("%s %q: %v, want %v", name, value, err, want)
		}
	}
	fails("writeback", "idle", ErrInvalid)
	fails("backing_dev", "none such", ErrNotBlock)
	fails("backing_dev", "", ErrInvalid)
	fails("backing_dev", "a\nb", ErrInvalid)
	fails("backing_dev", strings.Repeat("x", 300), ErrTooBig)
	fails("backing_dev", "new size=0", ErrInvalid)
	fails("backing_dev", "new size=x", ErrInvalid)
	fails("writeback_batch_size", "0", ErrInvalid)
	fails("writeback_batch_size", "x", ErrInvalid)
	fails("writeback_limit", "-1", ErrInvalid)
	fails("writeback_limit_enable", "x", ErrInvalid)
	fails("compressed_writeback", "x", ErrInvalid)
	fails("writeback_plain", "", ErrInvalid)
	if got := show(t, d, "backing_dev"); got != "none\n" {
		t.Errorf("backing_dev reads %q", got)
	}
	if err := d.SetSize(64 * PageSize); err != nil {
		t.Fatal(err)
	}
	fails("writeback", "type=idle", ErrNoDevice)
	fails("backing_dev", "dev", ErrBusy)
	fails("compressed_writeback", "1", ErrBusy)
	fails("writeback_plain", "1", ErrBusy)
	if err := d.Reset(); err != nil {
		t.Fatal(err)
	}
	set(t, d, "backing_dev=dev\n")
	if got := show(t, d, "backing_dev"); got != "dev\n" || !m.opened {
		t.Errorf("backing_dev reads %q", got)
	}
	set(t, d, "backing_dev=dev", "backing_dev=none")
	if m.opened {
		t.Error("none leaves it open")
	}
	set(t, d, "backing_dev=made size=128K", "backing_dev=dev")
	if err := d.SetSize(64 * PageSize); err != nil {
		t.Fatal(err)
	}
	for value, want := range map[string]error{
		"type=no": ErrInvalid, "no": ErrInvalid, "type=": ErrInvalid, "page_index=64": ErrRange, "page_index=x": ErrInvalid,
		"page_index=99999999999999999999": ErrRange, "page_indexes=1": ErrInvalid, "page_indexes=5-4": ErrRange,
		"page_indexes=0-64": ErrRange, "page_indexes=-3": ErrInvalid, "page_indexes=x-3": ErrInvalid,
		"": nil, "page_index=0": nil, "page_indexes=0-63 page_index=3": nil, "nothing=1": nil,
		"idle": nil, "huge": nil, "huge_idle": nil, "incompressible": nil, "type=incompressible": nil,
	} {
		fails("writeback", value, want)
	}
	if got := show(t, d, "bd_stat"); got != "       0        0        0\n" {
		t.Errorf("bd_stat reads %q", got)
	}
	if err := d.Reset(); err != nil {
		t.Fatal(err)
	}
	if m.opened || show(t, d, "backing_dev") != "none\n" {
		t.Error("reset leaves the backing device")
	}
}

// A device that the next worker could not adopt is opened when its path is stored
// again.
func TestBackingDevThatWasNotAdopted(t *testing.T) {
	m := newMemBacking(8)
	cfg := testConfig(t)
	cfg.Backing = backings{"dev": m}
	d := newDevice(t, 0, cfg)
	set(t, d, "backing_dev=dev")
	m.opened = false
	d.mu.Lock()
	d.backing = nil
	d.adoptBacking()
	d.mu.Unlock()
	if d.HasBacking() || show(t, d, "backing_dev") != "dev\n" {
		t.Fatal("the device was adopted")
	}
	set(t, d, "backing_dev=dev", "backing_dev=dev")
	if !d.HasBacking() || !m.opened {
		t.Error("storing the path again opens nothing")
	}
}

// page_index and page_indexes take what they name, several in one write.
func TestWritebackOfPages(t *testing.T) {
	d, _ := backedDevice(t, 64, 64)
	pages := fillPages(t, d, 64)
	set(t, d, "writeback=page_index=2 page_indexes=5-7 page_index=4 page_indexes=60-63")
	for slot, w := range d.disk.Load().table.each {
		want := slot == 2 || slot >= 5 && slot <= 7 || slot >= 61
		if got := w.state() == backed; got != want {
			t.Errorf("slot %d on the device: %v", slot, got)
		}
	}
	wantPages(t, d, pages)
}

// A budget is used up to the block, and given back where nothing was written.
func TestWritebackLimit(t *testing.T) {
	const n = 64
	d, m := backedDevice(t, n, n, "writeback_limit_enable=1", "writeback_batch_size=8")
	pages := fillPages(t, d, n)
	if err := store(d, "writeback", "huge"); !errors.Is(err, ErrBudget) {
		t.Errorf("without a budget: %v", err)
	}
	set(t, d, "writeback_limit=10")
	if err := store(d, "writeback", "page_indexes=0-63"); !errors.Is(err, ErrBudget) {
		t.Errorf("with too small a budget: %v", err)
	}
	if s := d.Backing(); s.Writes != 10 || s.Used != 10 || show(t, d, "writeback_limit") != "0\n" {
		t.Errorf("%+v, left %s", s, show(t, d, "writeback_limit"))
	}
	m.set(func() { m.write = func(int64) error { return errors.New("no") } })
	set(t, d, "writeback_limit=20")
	if err := store(d, "writeback", "page_indexes=0-63"); !errors.Is(err, ErrBacking) {
		t.Errorf("with a device that fails: %v", err)
	}
	if got := show(t, d, "writeback_limit"); got != "20\n" || d.Backing().Used != 10 {
		t.Errorf("left %s, %+v", got, d.Backing())
	}
	m.set(func() { m.write = nil })
	set(t, d, "writeback_limit_enable=0", "writeback=page_indexes=0-63")
	if got := states(d, backed); got != n/4*3 {
		t.Errorf("%d pages on the device", got)
	}
	wantPages(t, d, pages)
}

// A budget that is stored while a batch is being written is what may be written
// after it, whatever comes of the batch.
func TestWritebackLimitStoredMeanwhile(t *testing.T) {
	for _, before := range []string{"writeback_limit_enable=0", "writeback_limit_enable=1"} {
		d, m := backedDevice(t, 64, 64, "writeback_limit=50", before)
		fillPages(t, d, 64)
		stall := make(chan struct{})
		m.set(func() { m.stall, m.write = stall, func(int64) error { return errors.New("no") } })
		ended := make(chan error, 1)
		go func() { ended <- store(d, "writeback", "page_indexes=0-31") }()
		eventually(t, "that the pass waits for the device", func() bool { return m.stalled.Load() > 0 })
		set(t, d, "writeback_limit=5", "writeback_limit_enable=1")
		m.set(func() { m.stall = nil })
		close(stall)
		if err := <-ended; !errors.Is(err, ErrBacking) {
			t.Errorf("with a device that fails: %v", err)
		}
		if got := show(t, d, "writeback_limit"); got != "5\n" {
			t.Errorf("%s, then a limit of 5 became %s", before, got)
		}
	}
}

// A full device takes what fits.
func TestWritebackFull(t *testing.T) {
	d, _ := backedDevice(t, 64, 7)
	pages := fillPages(t, d, 64)
	if err := store(d, "writeback", "page_indexes=0-63"); !errors.Is(err, ErrNoSpace) {
		t.Errorf("%v", err)
	}
	if s := d.Backing(); s.Used != 7 || states(d, backed) != 7 {
		t.Errorf("%+v", s)
	}
	for _, w := range d.disk.Load().table.each {
		if w.has(flagPP) {
			t.Fatal("a page is marked after the pass")
		}
	}
	wantPages(t, d, pages)
	if err := d.Discard(0, 64*PageSize); err != nil {
		t.Fatal(err)
	}
	pages = fillPages(t, d, 64)
	if err := store(d, "writeback", "huge"); !errors.Is(err, ErrNoSpace) || states(d, backed) != 7 {
		t.Errorf("the freed blocks are not used again: %v", err)
	}
	wantPages(t, d, pages)
}

// Errors of the device cost no data: what was not written is in RAM, what cannot
// be read gives an error, and the right bytes again when it can.
func TestBackingErrors(t *testing.T) {
	d, m := backedDevice(t, 64, 64, "compressed_writeback=1", "writeback_batch_size=4", "writeback_promote=0")
	pages := fillPages(t, d, 64)
	failures := 0
	m.set(func() {
		m.write = func(int64) error {
			if failures++; failures%2 == 0 {
				return errors.New("device error")
			}
			return nil
		}
	})
	if err := store(d, "writeback", "page_indexes=0-63"); !errors.Is(err, ErrBacking) {
		t.Errorf("%v", err)
	}
	if n := states(d, backed); n == 0 || n == 48 || d.Backing().WriteErrors == 0 {
		t.Errorf("%d pages on the device, %+v", n, d.Backing())
	}
	wantPages(t, d, pages)
	m.set(func() { m.read, m.write = func(int64) error { return errors.New("device error") }, nil })
	unread := int64(0)
	for slot, w := range d.disk.Load().table.each {
		if w.state() == backed {
			unread++
		}
		if w.state() != backed {
			wantPage(t, d, slot, pages[slot])
		} else if _, err := d.ReadAt(make([]byte, 100), int64(slot)*PageSize); !errors.Is(err, ErrBacking) {
			t.Errorf("slot %d: %v", slot, err)
		}
	}
	if n := d.Backing().ReadErrors; n != unread {
		t.Errorf("%d reads failed, %d are counted", unread, n)
	}
	m.set(func() { m.read = nil })
	wantPages(t, d, pages)
	damaged := uint64(0)
	m.set(func() {
		for slot, w := range d.disk.Load().table.each {
			if w.state() == backed {
				damaged = slot
				m.mem[w.place()*awayUnit] ^= 1
				break
			}
		}
	})
	if _, err := d.ReadAt(make([]byte, 100), int64(damaged)*PageSize); !errors.Is(err, ErrCorrupt) || d.Backing().Damaged != 1 {
		t.Errorf("a damaged page: %v", err)
	}
	write(t, d, pages[damaged], int64(damaged)*PageSize)
	wantPages(t, d, pages)
}

// Every byte on the device counts: another page's bytes, an older version and a
// block of another place are all refused.
func TestBackingSwapsBlocks(t *testing.T) {
	d, m := backedDevice(t, 8, 8, "writeback_plain=1", "writeback_promote=0")
	for slot := range int64(2) {
		write(t, d, incompressible(), slot*PageSize)
	}
	set(t, d, "writeback=huge")
	m.set(func() {
		a, b := bytes.Clone(m.mem[:PageSize]), bytes.Clone(m.mem[PageSize:2*PageSize])
		copy(m.mem, b)
		copy(m.mem[PageSize:], a)
	})
	for slot := range int64(2) {
		if _, err := d.ReadAt(make([]byte, PageSize), slot*PageSize); !errors.Is(err, ErrCorrupt) {
			t.Errorf("slot %d reads another's bytes: %v", slot, err)
		}
	}
}

// A page that is read back again and again comes back to RAM; one that is read
// once stays where it is, and one for which there is no room, too.
func TestPromote(t *testing.T) {
	for _, packed := range []string{"0", "1"} {
		d, _ := backedDevice(t, 64, 64, "compressed_writeback="+packed)
		pages := fillPages(t, d, 64)
		set(t, d, "writeback=page_indexes=0-63")
		wantPages(t, d, pages)
		if n := states(d, backed); n != 48 {
			t.Errorf("%d pages on the device after one read", n)
		}
		set(t, d, "mem_limit=64K")
		wantPages(t, d, pages)
		set(t, d, "mem_limit=0")
		there := states(d, backed)
		wantPages(t, d, pages)
		eventually(t, "the return of all", func() bool { wantPages(t, d, pages); return states(d, backed) == 0 })
		eventually(t, "that no block is held", func() bool { return d.Backing().Used == 0 })
		if s := d.Backing(); s.Promoted != 48 || there == 0 {
			t.Errorf("%d were there at the limit, %+v", there, s)
		}
		wantPages(t, d, pages)
	}
}

// One operation list gives one history, wherever pages lie.
func TestWritebackModel(t *testing.T) {
	for seed := range uint64(4) {
		r := rand.New(rand.NewPCG(seed, 77))
		const n = 48
		d, m := backedDevice(t, n, n/2, fmt.Sprintf("compressed_writeback=%d", seed%2), "writeback_batch_size=5")
		model := make([]byte, n*PageSize)
		for step := range 600 {
			off := int64(r.IntN(n)) * PageSize
			switch r.IntN(10) {
			case 0, 1:
				p := randomPage(t, r)
				write(t, d, p, off)
				copy(model[off:], p)
			case 2:
				p := randomPage(t, r)[:1+r.IntN(PageSize)]
				at := min(off+int64(r.IntN(PageSize)), int64(len(model)-len(p)))
				write(t, d, p, at)
				copy(model[at:], p)
			case 3:
				length := int64(r.IntN(3 * PageSize))
				length = min(length, int64(len(model))-off)
				if err := d.Discard(off, length); err != nil {
					t.Fatal(err)
				}
				clear(model[off : off+length])
			case 4:
				lo := r.IntN(n)
				if err := store(d, "writeback", fmt.Sprintf("page_indexes=%d-%d", lo, lo+r.IntN(n-lo))); err != nil && !errors.Is(err, ErrNoSpace) {
					t.Fatal(err)
				}
			case 5:
				set(t, d, "compact=1")
			default:
				length := min(1+r.IntN(4*PageSize), len(model)-int(off))
				if got := read(t, d, length, off); !bytes.Equal(got, model[off:int(off)+length]) {
					t.Fatalf("seed %d, step %d, %d bytes at %d: %s", seed, step, length, off,
						firstDifference(got, model[off:int(off)+length]))
				}
			}
			if step%150 == 149 {
				if err := d.Check(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if m.discards.Load() < 0 {
			t.Fatal("no discards")
		}
	}
}
