package compress

import (
	"bytes"
	"fmt"
	"hash/crc32"
	"os"
	"testing"
	"time"

	"github.com/pierrec/lz4/v4"

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
		{Codec: "brotli"}, {Codec: "brotli", Level: 2},
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

// benchPages gives the corpus, or the pages of the zstd file that ZRAMFS_PAGES
// names: what testdata/capture.py takes on another machine.
func benchPages(b *testing.B) [][]byte {
	file := os.Getenv("ZRAMFS_PAGES")
	if file == "" {
		return testpages.Pages(b)
	}
	pages, err := testpages.Load(file)
	if err != nil {
		b.Fatal(err)
	}
	return pages
}

// beside times work on all pages, in turns with the same pages of the library's
// LZ4, and shows how often it is as fast: a machine that is busy with other things
// is slow for both. The pages go by in pieces, and who is the first to read a piece
// changes from one to the next.
func beside(b *testing.B, pages int, work, library func(page int)) {
	const piece = 256
	var mine, theirs time.Duration
	b.SetBytes(PageSize)
	b.ReportAllocs()
	b.ResetTimer()
	b.StopTimer()
	for done := 0; done < b.N; done += piece {
		pass := func(do func(int)) time.Duration {
			began := time.Now()
			for i := done; i < min(done+piece, b.N); i++ {
				do(i % pages)
			}
			return time.Since(began)
		}
		if done/piece%2 == 0 {
			theirs += pass(library)
		}
		b.StartTimer()
		mine += pass(work)
		b.StopTimer()
		if done/piece%2 != 0 {
			theirs += pass(library)
		}
	}
	b.ReportMetric(theirs.Seconds()/mine.Seconds(), "x-pierrec")
}

func BenchmarkCompress(b *testing.B) {
	pages := benchPages(b)
	var fast lz4.Compressor
	dst := make([]byte, outSize)
	library := func(i int) {
		if _, err := fast.CompressBlock(pages[i], dst); err != nil {
			b.Fatal(err)
		}
	}
	show := func(b *testing.B, stored int) {
		b.ReportMetric(float64(stored), "stored")
		b.ReportMetric(float64(len(pages)*PageSize)/float64(stored), "ratio")
	}
	b.Run("pierrec", func(b *testing.B) {
		total := 0
		for _, page := range pages {
			n, err := fast.CompressBlock(page, dst)
			if err != nil {
				b.Fatal(err)
			}
			if n >= huge {
				n = PageSize
			}
			total += n
		}
		beside(b, len(pages), library, library)
		show(b, total)
	})
	for _, p := range benched() {
		b.Run(name(p), func(b *testing.B) {
			st := one(b, p)
			total := 0
			for _, page := range pages {
				total += stored(st, page)
			}
			beside(b, len(pages), func(i int) {
				if _, err := compressPage(st, pages[i]); err != nil && err != ErrIncompressible {
					b.Fatal(err)
				}
			}, library)
			show(b, total)
		})
	}
}

// Blocks that the lz4 codec wrote are what the library reads beside each codec's own.
func BenchmarkDecompress(b *testing.B) {
	packed := func(b *testing.B, st *Stream) (all [][]byte) {
		for _, page := range benchPages(b) {
			if c, err := compressPage(st, page); err == nil {
				all = append(all, bytes.Clone(c))
			}
		}
		return all
	}
	blocks := packed(b, one(b, Params{Codec: "lz4"}))
	out := make([]byte, PageSize)
	library := func(i int) {
		if _, err := lz4.UncompressBlock(blocks[i%len(blocks)], out); err != nil {
			b.Fatal(err)
		}
	}
	b.Run("pierrec", func(b *testing.B) { beside(b, len(blocks), library, library) })
	for _, p := range benched() {
		b.Run(name(p), func(b *testing.B) {
			st := one(b, p)
			mine := packed(b, st)
			beside(b, len(mine), func(i int) {
				if err := st.Decompress(0, out, mine[i]); err != nil {
					b.Fatal(err)
				}
			}, library)
		})
	}
}

// What the checksum that the pool keeps with each object costs, of bytes that were
// written just now, beside the copy to where they are stored: for what an average
// page of the corpus becomes, and for a page that is stored raw. A processor without
// an instruction for CRC-32C would make 1 to 2 GB/s.
func BenchmarkChecksum(b *testing.B) {
	page, table := testpages.Pages(b)[4000], crc32.MakeTable(crc32.Castagnoli)
	for _, n := range []int{1326, PageSize} {
		b.Run(fmt.Sprintf("crc/%d", n), func(b *testing.B) {
			b.SetBytes(int64(n))
			sum := uint32(0)
			for range b.N {
				sum = crc32.Update(sum, table, page[:n])
			}
		})
		b.Run(fmt.Sprintf("copy/%d", n), func(b *testing.B) {
			b.SetBytes(int64(n))
			var dst [PageSize]byte
			for range b.N {
				copy(dst[:], page[:n])
			}
		})
	}
}
