package blockdev

import (
	"bytes"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/zramfs/zramfs/pool"
)

// Staged pages never take the room that they need to be compressed into: with
// a limit as small as the frames the disk holds as much as without them.
func TestFramesLeaveRoom(t *testing.T) {
	held := func(frames int) (n int) {
		src := newSource(t)
		o := quietOptions(t, 2048*PageSize, frames)
		o.limit = 1 << 20
		d, err := createDisk(src, "zram0", o)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { src.Drop("zram0", d.region) }()
		for slot := range int64(2048) {
			r := &Request{Op: OpWrite, Off: slot * PageSize, Data: stamped(t, uint64(slot)), Done: func(_ *Request, _ int, err error) {
				if err == nil {
					n++
				}
			}}
			if _, parked, err := d.submit(r); parked {
				d.keepUp()
			} else if r.Done(r, 0, err); err != nil && frames > 0 {
				d.compressNext(0) // not before nothing else is left to do
			}
		}
		if err := d.check(); err != nil {
			t.Error(err)
		}
		return n
	}
	if without, with := held(0), held(256); with < without*9/10 {
		t.Errorf("1 MiB holds %d pages without frames and %d with 256", without, with)
	}
}

// mem_limit is rounded up to pages, however it is set, and the largest number
// is no limit that matters.
func TestLimitIsRounded(t *testing.T) {
	cfg := testConfig(t)
	cfg.MemLimit = 100
	d := newDevice(t, 64*PageSize, cfg)
	if n := column(t, d, "mm_stat", mmLimit); n != PageSize {
		t.Errorf("mem_limit 100 shows %d, want a page", n)
	}
	huge := func() error { _, err := d.WriteAt(append(incompressible(), incompressible()...), 0); return err }
	if err := huge(); !errors.Is(err, ErrNoSpace) {
		t.Errorf("two raw pages under a limit of one: %v, want ErrNoSpace", err)
	}
	if err := store(d, "mem_limit", "9223372036854775807"); err != nil {
		t.Fatal(err)
	}
	if err := huge(); err != nil {
		t.Errorf("a write under the largest limit: %v", err)
	}
}

// A request that waits for room is not told that there is none because others
// were quicker to take what upkeep made.
func TestWaiterIsOvertaken(t *testing.T) {
	src := newSource(t)
	o := quietOptions(t, 2048*PageSize, 0)
	var d *disk
	var stolen []pool.Place
	attempts := 0 // by the writer, then by upkeep, which it waits for
	o.faults = &faults{put: func() error {
		for attempts++; attempts <= 3; {
			pl, err := d.pool.Put(1, 0, 0, incompressible())
			if err != nil {
				break
			}
			stolen = append(stolen, pl)
		}
		return nil
	}}
	d, err := createDisk(src, "zram0", o)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { src.Drop("zram0", d.region) }()
	if err := d.fillReserve(); err != nil {
		t.Fatal(err)
	}
	answered := false
	if _, parked, err := d.submit(&Request{Op: OpWrite, Data: incompressible(), Done: func(_ *Request, _ int, err error) {
		if answered = true; err != nil {
			t.Errorf("a write that was overtaken: %v", err)
		}
	}}); !parked {
		t.Fatalf("the write found room (%v)", err)
	}
	if d.keepUp(); !answered || attempts < 4 {
		t.Errorf("answered %v after %d attempts, want the fourth to pass", answered, attempts)
	}
	for _, pl := range stolen {
		if err := d.pool.Free(pl, PageSize); err != nil {
			t.Error(err)
		}
	}
	if err := d.check(); err != nil {
		t.Error(err)
	}
}

// metered is pool memory that counts what is committed.
type metered struct {
	pool.Memory
	bytes *int64
}

func (m metered) Populate(off, n int64) error {
	*m.bytes += n
	return m.Memory.Populate(off, n)
}

// A request that waits for room gets it before all of the reserve is committed:
// when memory is short, that takes long.
func TestWaiterComesBeforeReserve(t *testing.T) {
	src := newSource(t)
	o := quietOptions(t, 2048*PageSize, 0)
	o.reserveLow, o.reserveHigh = 3<<20, 4<<20
	committed := int64(0)
	o.faults = &faults{wrap: func(m pool.Memory) pool.Memory { return metered{m, &committed} }}
	d, err := createDisk(src, "zram0", o)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { src.Drop("zram0", d.region) }()
	before := int64(-1)
	_, parked, err := d.submit(&Request{Op: OpWrite, Data: incompressible(), Done: func(_ *Request, _ int, err error) {
		if before = committed; err != nil {
			t.Error(err)
		}
	}})
	if !parked {
		t.Fatalf("the write found room (%v)", err)
	}
	d.keepUp()
	if before < 0 || before > o.reserveHigh/4 || committed < o.reserveHigh {
		t.Errorf("answered when %d bytes were committed, of %d in the end", before, committed)
	}
	if err := d.check(); err != nil {
		t.Error(err)
	}
}

// Where the arena is in pieces too small for a zspage, a page is stored raw
// before it is refused: the disk has room for as many pages as the arena.
func TestFragmentsTakeRawPages(t *testing.T) {
	const slots = 1000
	src := newSource(t)
	o := quietOptions(t, slots*PageSize, 0)
	l := layoutOf(slots, slots, 4<<20, 0, chainPages)
	r, err := src.Create("zram0", l.total)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { src.Drop("zram0", r) }()
	l.write(r.Bytes(0, PageSize))
	d, err := openDisk(r, l, o)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.fillReserve(); err != nil {
		t.Fatal(err)
	}
	do := func(req *Request) {
		t.Helper()
		answer := errors.New("never answered")
		req.Done = func(_ *Request, _ int, err error) { answer = err }
		_, parked, err := d.submit(req)
		if parked {
			d.keepUp()
			err = answer
		}
		if err != nil {
			t.Fatalf("request at page %d: %v", req.Off/PageSize, err)
		}
	}
	for slot := range int64(slots) {
		do(&Request{Op: OpWrite, Off: slot * PageSize, Data: incompressible()})
	}
	for slot := int64(0); slot < slots; slot += 2 {
		do(&Request{Op: OpDiscard, Off: slot * PageSize, Len: PageSize})
	}
	for slot := int64(0); slot < slots; slot += 2 {
		p := incompressible()
		clear(p[3000:])
		do(&Request{Op: OpWrite, Off: slot * PageSize, Data: p})
	}
	if err := d.check(); err != nil {
		t.Error(err)
	}
}

// dry is pool memory that cannot be committed while it is set.
type dry struct {
	pool.Memory
	on *atomic.Bool
}

func (m dry) Populate(off, n int64) error {
	if m.on.Load() {
		return errInjected
	}
	return m.Memory.Populate(off, n)
}

// A write waits, parked, for memory that the machine does not give, and no
// longer than it is told to; then it gets ErrNoSpace and the old content stays.
// Staged pages stay staged until there is memory again.
func TestWriteWaitsForMemory(t *testing.T) {
	for _, frames := range []int{0, 4} {
		for _, wait := range []time.Duration{time.Hour, 10 * time.Millisecond} {
			var on atomic.Bool
			cfg := testConfig(t)
			cfg.WriteBehind, cfg.RoomWait, cfg.ReserveLow, cfg.ReserveHigh = frames, wait, 64<<10, 128<<10
			cfg.faults = &faults{wrap: func(m pool.Memory) pool.Memory { return dry{m, &on} }}
			const writers = 768 // more than any reserve
			d := newDevice(t, writers*PageSize, cfg)
			pages := make([][]byte, writers)
			for slot := range pages {
				pages[slot] = make([]byte, PageSize)
				if slot%32 == 0 {
					pages[slot] = stamped(t, uint64(slot))
					write(t, d, pages[slot], int64(slot)*PageSize)
				}
			}
			on.Store(true)
			answers := make(chan error, writers)
			parked, new := 0, incompressible()
			for slot := range int64(writers) {
				r := &Request{Op: OpWrite, Data: new, Off: slot * PageSize, Done: func(_ *Request, _ int, err error) { answers <- err }}
				_, waits, err := d.Submit(r)
				if waits {
					parked++
				} else if answers <- err; err != nil {
					t.Fatal(err)
				}
			}
			if parked == 0 {
				t.Fatal("every write found room")
			}
			if wait == time.Hour {
				on.Store(false)
			}
			refused := 0
			for range writers {
				if err := <-answers; errors.Is(err, ErrNoSpace) {
					refused++
				} else if err != nil {
					t.Fatal(err)
				}
			}
			if wait == time.Hour && refused != 0 || wait != time.Hour && refused == 0 {
				t.Errorf("%d of %d writes were refused with a bound of %v", refused, parked, wait)
			}
			on.Store(false)
			for slot, old := range pages {
				if got := read(t, d, PageSize, int64(slot)*PageSize); !bytes.Equal(got, old) && !bytes.Equal(got, new) {
					t.Fatalf("slot %d is neither old nor new", slot)
				}
			}
			if frames > 0 {
				drain(t, d)
			}
		}
	}
}

// Room under the limit is waited for where that is asked for.
func TestWriteWaitsUnderLimit(t *testing.T) {
	cfg := testConfig(t)
	cfg.MemLimit, cfg.LimitWait = PageSize, time.Hour
	d := newDevice(t, 4*PageSize, cfg)
	write(t, d, incompressible(), 0)
	answer := make(chan error, 1)
	page := incompressible()
	r := &Request{Op: OpWrite, Data: page, Off: PageSize, Done: func(_ *Request, _ int, err error) { answer <- err }}
	if _, parked, err := d.Submit(r); !parked {
		t.Fatalf("two raw pages under a limit of one: %v", err)
	}
	if err := d.Check(); err != nil { // it does not wait for the write
		t.Error(err)
	}
	if err := d.Discard(0, PageSize); err != nil {
		t.Fatal(err)
	}
	if err := <-answer; err != nil {
		t.Fatal(err)
	}
	wantPage(t, d, 1, page)
}
