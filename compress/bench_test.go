package compress

import (
	"testing"

	"github.com/zramfs/zramfs/internal/testpages"
)

// huge is the length from which zram's pool stores a page raw, at chain length 8.
const huge = 3625

// benched are the levels that people choose between.
func benched() []Params {
	return []Params{
		{Codec: "lz4"}, {Codec: "lz4", Level: 4}, {Codec: "lz4hc"},
		{Codec: "zstd", Level: 1}, {Codec: "zstd"}, {Codec: "zstd", Level: 6}, {Codec: "zstd", Level: 10},
		{Codec: "minlz"}, {Codec: "minlz", Level: 2},
		{Codec: "s2"}, {Codec: "s2", Level: 2},
		{Codec: "deflate", Level: 1}, {Codec: "deflate"}, {Codec: "deflate", Level: 9},
	}
}

// stored is what the pool would hold for a page, headers and classes left out.
func stored(st *Stream, page []byte) int {
	c, err := compressPage(st, page)
	if err != nil || len(c) >= huge {
		return PageSize
	}
	return len(c)
}

func BenchmarkCompress(b *testing.B) {
	pages := testpages.Pages(b)
	for _, p := range benched() {
		b.Run(name(p), func(b *testing.B) {
			st := one(b, p)
			total := 0
			for _, page := range pages {
				total += stored(st, page)
			}
			b.SetBytes(PageSize)
			b.ReportAllocs()
			b.ResetTimer()
			for i := range b.N {
				if _, err := compressPage(st, pages[i%len(pages)]); err != nil && err != ErrIncompressible {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(total), "stored")
			b.ReportMetric(float64(len(pages)*PageSize)/float64(total), "ratio")
		})
	}
}

func BenchmarkDecompress(b *testing.B) {
	pages := testpages.Pages(b)
	for _, p := range benched() {
		b.Run(name(p), func(b *testing.B) {
			st := one(b, p)
			var packed [][]byte
			for _, page := range pages {
				if c, err := compressPage(st, page); err == nil {
					packed = append(packed, append([]byte(nil), c...))
				}
			}
			out := make([]byte, PageSize)
			b.SetBytes(PageSize)
			b.ReportAllocs()
			b.ResetTimer()
			for i := range b.N {
				if err := st.Decompress(0, out, packed[i%len(packed)]); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
