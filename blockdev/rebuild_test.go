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
