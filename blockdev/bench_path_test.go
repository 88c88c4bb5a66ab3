package blockdev

import (
	"sync/atomic"
	"testing"

	"github.com/zramfs/zramfs/internal/testpages"
)

// benchSlots is the disk of the benchmarks below: 64 MiB.
const benchSlots = 16384

// benchDevice has all of its disk written.
func benchDevice(b *testing.B, change func(*Config)) (*Device, [][]byte) {
	b.Helper()
	pages := testpages.Pages(b)
	cfg := testConfig(b)
	cfg.ReserveHigh = 32 << 20
	if change != nil {
		change(&cfg)
	}
	d := newDevice(b, benchSlots*PageSize, cfg)
	for i := range int64(benchSlots) {
		write(b, d, pages[i%int64(len(pages))], i*PageSize)
	}
	return d, pages
}

// submit does a request and waits, if it is parked.
func submit(b *testing.B, d *Device, r *Request, answered chan error) {
	_, parked, err := d.Submit(r)
	if parked {
		err = <-answered
	}
	if err != nil {
		b.Error(err)
	}
}

// newRequest answers into the channel.
func newRequest(op Op, stream int) (*Request, chan error) {
	answered := make(chan error, 1)
	return &Request{Op: op, Stream: stream, Done: func(_ *Request, _ int, err error) { answered <- err }}, answered
}

// BenchmarkSlot is the table alone: what any access to a page costs at least.
func BenchmarkSlot(b *testing.B) {
	d, _ := benchDevice(b, nil)
	t := d.disk.Load().table
	b.Run("load", func(b *testing.B) {
		b.ReportAllocs()
		var sum word
		for i := uint64(0); b.Loop(); i++ {
			sum += t.load(i * 7919 % benchSlots)
		}
		_ = sum
	})
	b.Run("lock", func(b *testing.B) {
		b.ReportAllocs()
		for i := uint64(0); b.Loop(); i++ {
			slot := i * 7919 % benchSlots
			t.lock(slot)
			t.unlock(slot)
		}
	})
	b.Run("store", func(b *testing.B) {
		b.ReportAllocs()
		for i := uint64(0); b.Loop(); i++ {
			slot := i * 7919 % benchSlots
			t.lock(slot)
			t.store(slot, t.load(slot))
			t.unlock(slot)
		}
	})
}

// BenchmarkRequest is one request of each kind without FUSE.
func BenchmarkRequest(b *testing.B) {
	behind := func(c *Config) { c.WriteBehind = 64 }
	for _, c := range []struct {
		name   string
		op     Op
		pages  int64
		part   bool
		same   bool
		change func(*Config)
	}{
		{"256 pages/write", OpWrite, 256, false, false, nil},
		{"256 pages/read", OpRead, 256, false, false, nil},
		{"same/write", OpWrite, 1, false, true, nil},
		{"part/write", OpWrite, 1, true, false, nil},
		{"behind/write", OpWrite, 1, false, false, behind},
		{"discard and write", OpDiscard, 1, false, false, nil},
	} {
		b.Run(c.name, func(b *testing.B) {
			d, pages := benchDevice(b, c.change)
			r, answered := newRequest(c.op, 0)
			n := int(c.pages * PageSize)
			window := make([]byte, 0, len(pages)*PageSize)
			for _, p := range pages {
				window = append(window, p...)
			}
			into, same := make([]byte, n), make([]byte, PageSize)
			b.SetBytes(int64(n))
			b.ReportAllocs()
			for i := int64(0); b.Loop(); i++ {
				at := i * 7919 % (benchSlots / c.pages) * c.pages
				from := int(i) * 31 % (len(pages) - int(c.pages)) * PageSize
				r.Off, r.Len, r.Data = at*PageSize, int64(n), window[from:][:n]
				switch {
				case c.op == OpRead:
					r.Data = into
				case c.op == OpDiscard:
					r.Op, r.Data = OpDiscard, nil
				case c.same:
					r.Data = same
				case c.part:
					r.Off, r.Len, r.Data = r.Off+512, 1024, r.Data[:1024]
				}
				submit(b, d, r, answered)
				if c.op == OpDiscard {
					r.Op, r.Data = OpWrite, window[from:][:n]
					submit(b, d, r, answered)
				}
			}
		})
	}
}

// BenchmarkParallel has a thread and a stream for each CPU: the time a page
// falls with the CPUs where they do not wait for each other.
func BenchmarkParallel(b *testing.B) {
	for _, c := range []struct {
		name string
		op   Op
	}{{"write", OpWrite}, {"read", OpRead}} {
		b.Run(c.name, func(b *testing.B) {
			d, pages := benchDevice(b, nil)
			var threads atomic.Int64
			b.SetBytes(PageSize)
			b.ReportAllocs()
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				n := threads.Add(1)
				r, answered := newRequest(c.op, int(n)%2)
				buf := make([]byte, PageSize)
				for i := n * 4099; pb.Next(); i++ {
					r.Off, r.Data = i*7919%benchSlots*PageSize, buf
					if c.op == OpWrite {
						r.Data = pages[i%int64(len(pages))]
					}
					submit(b, d, r, answered)
				}
			})
		})
	}
}
