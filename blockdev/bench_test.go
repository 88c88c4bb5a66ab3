package blockdev

import (
	"testing"

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
