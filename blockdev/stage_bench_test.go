package blockdev

import (
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/zramfs/zramfs/internal/testpages"
)

// What write-behind costs and gains, beside a device without it, in turns: x-cpu is
// the CPU time of a page until it is compressed, x-wait how long its writer waits.
// Saturated, a writer for each CPU stores page after page; in bursts, one stores 8
// pages and pauses.
func BenchmarkWriteBehind(b *testing.B) {
	pages := testpages.Pages(b)
	const slots, piece = 16384, 16384
	writers := runtime.GOMAXPROCS(0)
	for _, frames := range []int{16, 64, 256, 1024} {
		devices := [2]*Device{}
		for i, depth := range []int{0, frames} {
			cfg := testConfig(b)
			cfg.Streams, cfg.WriteBehind, cfg.ReserveHigh = writers, depth, 32<<20
			devices[i] = newDevice(b, slots*PageSize, cfg)
			for slot := range int64(slots) {
				write(b, devices[i], pages[slot%int64(len(pages))], slot*PageSize)
			}
		}
		put := func(d *Device, stream, from, n int) (waited time.Duration) {
			answered := make(chan error, 1)
			r := &Request{Op: OpWrite, Stream: stream, Done: func(_ *Request, _ int, err error) { answered <- err }}
			for i := range n {
				began := time.Now()
				r.Off, r.Data = int64((from+i)*7919%slots)*PageSize, pages[(from+i)%len(pages)]
				_, parked, err := d.Submit(r)
				if parked {
					err = <-answered
				}
				waited += time.Since(began)
				if err != nil {
					b.Error(err)
					return waited
				}
			}
			return waited
		}
		drained := func(d *Device) {
			k := d.disk.Load()
			for k.frames != nil && k.frames.InUse() != 0 {
				time.Sleep(100 * time.Microsecond)
			}
		}
		run := func(name string, pass func(d *Device, from int) time.Duration) {
			b.Run(fmt.Sprintf("%s/%d", name, frames), func(b *testing.B) {
				var cpu, waited [2]time.Duration
				b.SetBytes(PageSize)
				for from := 0; from < b.N; from += piece {
					for i, d := range devices {
						began := cpuTime(b)
						waited[i] += pass(d, from)
						drained(d)
						cpu[i] += cpuTime(b) - began
					}
				}
				b.ReportMetric(float64(cpu[1])/float64(cpu[0]), "x-cpu")
				b.ReportMetric(float64(waited[1])/float64(waited[0]), "x-wait")
				n := float64((b.N + piece - 1) / piece * piece)
				b.ReportMetric(float64(cpu[0].Nanoseconds())/n, "cpu-ns/page")
				s := devices[1].disk.Load()
				b.ReportMetric(float64(s.stable.Overwritten.Load()), "overwritten")
			})
		}
		run("saturated", func(d *Device, from int) (waited time.Duration) {
			var group sync.WaitGroup
			began := time.Now()
			for w := range writers {
				group.Go(func() { put(d, w, from+w*piece/writers, piece/writers) })
			}
			group.Wait()
			return time.Since(began)
		})
		run("bursts", func(d *Device, from int) (waited time.Duration) {
			for n := 0; n < piece; n += 8 {
				waited += put(d, 0, from+n, 8)
				time.Sleep(200 * time.Microsecond)
			}
			return waited
		})
	}
}
