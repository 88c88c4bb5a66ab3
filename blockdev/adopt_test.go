package blockdev

import (
	"testing"

	"github.com/zramfs/zramfs/internal/shm"
	"github.com/zramfs/zramfs/internal/testpages"
)

// storedDisk makes a disk of n real pages, without goroutines.
func storedDisk(tb testing.TB, src *source, o options, n int) *disk {
	tb.Helper()
	pages := testpages.Pages(tb)
	d, err := createDisk(src, "zram0", o)
	if err != nil {
		tb.Fatal(err)
	}
	if err := d.fillReserve(); err != nil {
		tb.Fatal(err)
	}
	for slot := range n {
		req := &Request{Op: OpWrite, Off: int64(slot) * PageSize, Data: pages[slot%len(pages)], Stream: slot % o.streams}
		var failed error
		req.Done = func(_ *Request, _ int, err error) { failed = err }
		_, parked, err := d.submit(req)
		if parked {
			d.keepUp()
			err = failed
		}
		if err != nil {
			tb.Fatal(err)
		}
	}
	return d
}

// mapAll does what a standby has done while it waited: all that exists is mapped.
func mapAll(tb testing.TB, r *shm.Region) (sum int) {
	tb.Helper()
	if err := r.Data(func(off, n int64) bool {
		for b := r.Bytes(off, n); len(b) > 0; b = b[PageSize:] {
			sum += int(b[0])
		}
		return true
	}); err != nil {
		tb.Fatal(err)
	}
	return sum
}

// What a new generation needs before it can serve.
func BenchmarkAdopt(b *testing.B) {
	for _, c := range []struct {
		name  string
		pages int
	}{{"empty", 0}, {"1GiB", 1 << 18}, {"4GiB", 1 << 20}} {
		b.Run(c.name, func(b *testing.B) {
			src := newSource(b)
			o := options{size: 4 << 30, streams: 2, params: params(b, "lz4"), reserveLow: DefaultReserveLow, reserveHigh: DefaultReserveHigh}
			d := storedDisk(b, src, o, c.pages)
			r := d.region
			for b.Loop() {
				b.StopTimer()
				again, err := remap(r)
				if err != nil {
					b.Fatal(err)
				}
				mapAll(b, again)
				b.StartTimer()
				next, err := adoptDisk(again, o)
				if err != nil {
					b.Fatal(err)
				}
				if err := next.fillReserve(); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				if got := sumLanes(next.lanes).pages; c.pages != 0 && got == 0 {
					b.Fatal("nothing was found")
				}
				if err := next.pool.Close(); err != nil {
					b.Fatal(err)
				}
				if err := again.Close(); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
			if err := d.pool.Close(); err != nil {
				b.Fatal(err)
			}
			src.Drop("zram0", r)
		})
	}
}
