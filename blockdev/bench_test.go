package blockdev

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zramfs/zramfs/internal/testpages"
)

// What a page costs without FUSE: a whole write with compression, store,
// publication and the free of the old object; and a whole read.
func BenchmarkPage(b *testing.B) {
	pages := testpages.Pages(b)
	for _, codec := range []string{"lz4", "minlz", "zstd", "none"} {
		cfg := testConfig(b)
		cfg.Algorithm = params(b, codec)
		cfg.ReserveHigh = 32 << 20
		d := newDevice(b, 16384*PageSize, cfg)
		for i := range int64(16384) {
			write(b, d, pages[i%int64(len(pages))], i*PageSize)
		}
		for _, op := range []Op{OpWrite, OpRead} {
			name := codec + "/write"
			if op == OpRead {
				name = codec + "/read"
			}
			b.Run(name, func(b *testing.B) {
				b.SetBytes(PageSize)
				b.ReportAllocs()
				buf := make([]byte, PageSize)
				answered := make(chan error, 1)
				r := &Request{Op: op, Done: func(_ *Request, _ int, err error) { answered <- err }}
				for i := int64(0); b.Loop(); i++ {
					slot := i * 7919 % 16384
					r.Off, r.Data = slot*PageSize, buf
					if op == OpWrite {
						r.Data = pages[i%int64(len(pages))]
					}
					_, parked, err := d.Submit(r)
					if parked {
						err = <-answered
					}
					if err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// BenchmarkRecompress tells how many pages of the corpus a pass takes in a second,
// from LZ4 to what is named, and what they become: the ratio of pages to stored
// bytes before and after. pages/cpu-s is what a machine without other work would do
// with one CPU.
func BenchmarkRecompress(b *testing.B) {
	for _, to := range []string{"zstd", "zstd(level=1)", "zstd(level=9)", "lz4hc", "brotli", "brotli(level=2)"} {
		b.Run(to, func(b *testing.B) {
			pages := testpages.Pages(b)
			cfg := testConfig(b)
			cfg.Recompress[0] = params(b, to)
			cfg.ReserveLow, cfg.ReserveHigh = DefaultReserveLow, DefaultReserveHigh
			d := newDevice(b, int64(len(pages))*PageSize, cfg)
			var tried int64
			var spent time.Duration
			var before, after float64
			for range b.N {
				b.StopTimer()
				for i, p := range pages {
					write(b, d, p, int64(i)*PageSize)
				}
				before = ratio(d)
				b.StartTimer()
				began := cpuTime(b)
				r, err := d.disk.Load().recompressPass(b.Context(), recompressOptions{})
				if err != nil {
					b.Fatal(err)
				}
				tried, spent = tried+r.attempts, spent+cpuTime(b)-began
				after = ratio(d)
			}
			b.ReportMetric(float64(tried)/b.Elapsed().Seconds(), "pages/s")
			b.ReportMetric(float64(tried)/spent.Seconds(), "pages/cpu-s")
			b.ReportMetric(before, "ratio-before")
			b.ReportMetric(after, "ratio-after")
		})
	}
}

// cpuTime is what this process has used of the CPUs.
func cpuTime(tb testing.TB) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func ratio(d *Device) float64 {
	s := d.sums()
	return float64(s.pages*PageSize) / float64(s.bytes)
}
