package blockdev

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/zramfs/zramfs/stable"
)

// quietOptions make a disk that is stepped by hand.
func quietOptions(tb testing.TB, size int64, frames int) options {
	return options{size: size, streams: 2, frames: frames, params: params(tb, "lz4"), policy: stable.Snapshot,
		reserveLow: 64 << 10, reserveHigh: 256 << 10}
}

// filledDisk makes a disk of slots pages of every kind, without goroutines.
func filledDisk(tb testing.TB, src *source, o options, seed uint64) (*disk, [][]byte) {
	d, err := createDisk(src, "zram0", o)
	if err != nil {
		tb.Fatal(err)
	}
	if err := d.fillReserve(); err != nil {
		tb.Fatal(err)
	}
	r := rand.New(rand.NewPCG(seed, 21))
	pages := make([][]byte, o.size/PageSize)
	for slot := range pages {
		pages[slot] = randomPage(tb, r)
		done := false
		req := &Request{Op: OpWrite, Off: int64(slot) * PageSize, Data: pages[slot], Stream: slot % 2,
			Done: func(_ *Request, _ int, err error) { done = err == nil }}
		_, parked, err := d.submit(req)
		if err != nil {
			tb.Fatal(err)
		}
		if parked {
			if d.keepUp(); !done {
				tb.Fatal("a write that waited for room failed")
			}
		}
	}
	return d, pages
}

// A new generation over the old one's region reads every page, staged ones
// too, counts what the old one counted, and goes on.
func TestRebuild(t *testing.T) {
	src := newSource(t)
	o := quietOptions(t, 300*PageSize, 8)
	d, pages := filledDisk(t, src, o, 1)
	before := sumLanes(d.lanes)
	next, err := adoptDisk(d.region, o)
	if err != nil {
		t.Fatal(err)
	}
	if after := sumLanes(next.lanes); after != before {
		t.Errorf("counters %+v, they were %+v", after, before)
	}
	if before.staged != 8 || next.frames.InUse() != 8 {
		t.Errorf("%d pages were staged, %d frames are in use now, want 8", before.staged, next.frames.InUse())
	}
	if used, was := next.account.used.Load(), d.account.used.Load(); used != was {
		t.Errorf("the account holds %d pages, it held %d", used, was)
	}
	got := make([]byte, PageSize)
	for slot, want := range pages {
		if err := next.readPage(0, uint64(slot), 0, got); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("slot %d: %v, %s", slot, err, firstDifference(got, want))
		}
	}
	for _, stream := range []int{0, 1} {
		for more := true; more; {
			if more, err = next.compressNext(stream); err == errRoom {
				next.keepUp()
			} else if err != nil {
				t.Fatal(err)
			}
		}
	}
	if n := next.frames.InUse(); n != 0 {
		t.Errorf("%d frames are in use after everything was compressed", n)
	}
	if err := next.check(); err != nil {
		t.Fatal(err)
	}
	src.Drop("zram0", d.region)
}

func TestAdoptRefusesWhatItCannotRead(t *testing.T) {
	src := newSource(t)
	o := quietOptions(t, 16*PageSize, 0)
	d, _ := filledDisk(t, src, o, 2)
	for _, c := range []struct {
		what string
		off  int64
		want error
	}{
		{"magic", 0, ErrCorrupt}, {"version", 8, ErrUnsupported}, {"slots", 16, ErrCorrupt}, {"arena", 24, ErrCorrupt},
		{"frames", 32, ErrCorrupt}, {"chain", 40, ErrCorrupt}, {"page size", 48, ErrCorrupt}, {"checksum", 56, ErrCorrupt},
	} {
		b := d.region.Bytes(c.off, 8)
		was := binary.LittleEndian.Uint64(b)
		binary.LittleEndian.PutUint64(b, was+1)
		if _, err := adoptDisk(d.region, o); !errors.Is(err, c.want) {
			t.Errorf("%s changed: %v, want %v", c.what, err, c.want)
		}
		binary.LittleEndian.PutUint64(b, was)
	}
	next, err := adoptDisk(d.region, o)
	if err != nil {
		t.Fatal(err)
	}
	if err := next.check(); err != nil {
		t.Fatal(err)
	}
	src.Drop("zram0", d.region)
}

// Random damage to slot words, objects and the side array never panics and
// never gives a wrong page: each slot reads as what was written, or as an
// error; and whatever is written afterwards is read back.
func FuzzRebuild(f *testing.F) {
	f.Add(uint64(1), []byte{0, 0, 1})
	f.Add(uint64(2), []byte{8, 0, 255, 16, 1, 7})
	f.Add(uint64(3), bytes.Repeat([]byte{40, 2, 3}, 20))
	f.Add(uint64(4), bytes.Repeat([]byte{130, 200, 9, 17, 129, 64}, 30))
	f.Fuzz(func(t *testing.T, seed uint64, damage []byte) {
		src := newSource(t)
		o := quietOptions(t, 40*PageSize, 4)
		d, pages := filledDisk(t, src, o, seed)
		defer func() { src.Drop("zram0", d.region) }()
		for ; len(damage) >= 3; damage = damage[3:] {
			at := int64(damage[0]) | int64(damage[1]&0x7f)<<8
			if damage[1]&0x80 == 0 {
				at = d.layout.words.off + at%(40*8)
			} else {
				at = d.layout.arena.off + at%(32<<10)
			}
			d.region.Bytes(at, 1)[0] ^= damage[2]
		}
		next, err := adoptDisk(d.region, o)
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, PageSize)
		for slot, want := range pages {
			err := next.readPage(0, uint64(slot), 0, got)
			if err == nil && !bytes.Equal(got, want) && !next.mayBeEmpty(uint64(slot)) {
				t.Fatalf("slot %d reads as something that was never written", slot)
			}
			if err != nil && !errors.Is(err, ErrCorrupt) {
				t.Fatalf("slot %d: %v", slot, err)
			}
		}
		for slot, want := range pages {
			done := error(nil)
			req := &Request{Op: OpWrite, Off: int64(slot) * PageSize, Data: want, Done: func(_ *Request, _ int, err error) { done = err }}
			_, parked, err := next.submit(req)
			if parked {
				next.keepUp()
				err = done
			}
			if err != nil {
				t.Fatalf("slot %d cannot be written any more: %v", slot, err)
			}
			if err := next.readPage(0, uint64(slot), 0, got); err != nil || !bytes.Equal(got, want) {
				t.Fatalf("slot %d after it was written anew: %v", slot, err)
			}
		}
		last, err := adoptDisk(d.region, o)
		if err != nil {
			t.Fatal(err)
		}
		if err := last.check(); err != nil {
			t.Fatalf("Check of a healed disk: %v", err)
		}
	})
}

// mayBeEmpty: damage that happens to zero a whole word, or to make a sound
// same-filled word, is no longer damage that anything could see.
func (d *disk) mayBeEmpty(slot uint64) bool {
	w := d.table.load(slot)
	return w == 0 || w.state() == same || w.state() == staged
}

// A worker that died between emptying a slot and wiping its frame leaves the
// page's bytes; the next one wipes them.
func TestRebuildWipesFrames(t *testing.T) {
	src := newSource(t)
	o := quietOptions(t, 8*PageSize, 8)
	d, _ := filledDisk(t, src, o, 3)
	defer func() { src.Drop("zram0", d.region) }()
	if _, parked, err := d.submit(&Request{Op: OpDiscard, Len: 8 * PageSize}); parked || err != nil {
		t.Fatal(parked, err)
	}
	staging := d.region.Bytes(d.layout.staging.off, d.layout.staging.n)
	if bytes.Count(staging, []byte{0}) == len(staging) {
		t.Fatal("no frame holds anything")
	}
	succeeded, err := adoptDisk(d.region, o)
	if err != nil {
		t.Fatal(err)
	}
	if left := len(staging) - bytes.Count(staging, []byte{0}); left != 0 {
		t.Errorf("%d bytes of discarded pages are left in frames", left)
	}
	if err := succeeded.check(); err != nil {
		t.Error(err)
	}
}
