package compress

import (
	"math/rand"
	"testing"

	"github.com/zramfs/zramfs/internal/invariants"
	"github.com/zramfs/zramfs/internal/testpages"
)

// every gives one Params for each codec and level worth a test of its own.
func every() []Params {
	return []Params{
		{Codec: "lz4"}, {Codec: "lz4", Level: 2}, {Codec: "lz4", Level: 16}, {Codec: "lz4", Level: 65537},
		{Codec: "lz4hc"}, {Codec: "lz4hc", Level: 1}, {Codec: "lz4hc", Level: 16},
		{Codec: "zstd"}, {Codec: "zstd", Level: 1}, {Codec: "zstd", Level: 6}, {Codec: "zstd", Level: 19}, {Codec: "zstd", Framed: true},
		{Codec: "minlz"}, {Codec: "minlz", Level: 2},
		{Codec: "s2"}, {Codec: "s2", Level: 2},
		{Codec: "deflate"}, {Codec: "deflate", Level: 1}, {Codec: "deflate", Level: 9},
		{Codec: "brotli"},
		{Codec: "none"},
	}
}

// one makes a set of one stream with p as its only Params, and takes the stream.
func one(tb testing.TB, p Params) *Stream {
	tb.Helper()
	s := NewSet(1)
	id, err := s.Add(p)
	if err != nil || id != 0 {
		tb.Fatalf("add %v: %d, %v", p, id, err)
	}
	st := s.Stream(0)
	if !st.TryLock() { // not Lock: a test may hold several at once
		tb.Fatal("a new stream is taken")
	}
	tb.Cleanup(st.Unlock)
	return st
}

// edges are pages that no program would have, one for each way to go wrong.
func edges() [][]byte {
	var pages [][]byte
	add := func(fill func(i int) byte) {
		p := make([]byte, PageSize)
		for i := range p {
			p[i] = fill(i)
		}
		pages = append(pages, p)
	}
	rnd := rand.New(rand.NewSource(1))
	add(func(int) byte { return 0 })
	add(func(int) byte { return 255 })
	add(func(i int) byte { return byte(i) })
	add(func(i int) byte { return byte(i >> 8) })
	add(func(int) byte { return byte(rnd.Uint32()) })
	add(func(int) byte { return byte(rnd.Uint32() & 1) })
	for _, period := range []int{2, 3, 5, 8, 254, 270, 1000, 2048, 4090} {
		unit := make([]byte, period)
		rnd.Read(unit)
		add(func(i int) byte { return unit[i%period] })
	}
	// One different byte, at the ends of the page and around the last bytes that may match.
	for _, at := range []int{0, 1, 4, 4079, 4083, 4084, 4085, 4090, 4091, 4092, 4095} {
		add(func(i int) byte {
			if i == at {
				return 1
			}
			return 0
		})
	}
	// Random bytes up to n, then a copy of the first ones: lengths of literals and matches of all sizes.
	for _, n := range []int{14, 15, 16, 17, 269, 270, 271, 524, 525, 2000, 3800, 4080} {
		head := make([]byte, n)
		rnd.Read(head)
		add(func(i int) byte { return head[i%n] })
		add(func(i int) byte {
			if i < n {
				return head[i]
			}
			return 7
		})
	}
	return pages
}

// sample is every step-th page of the corpus, and the edges; fewer in an
// invariants or race build, which is many times slower.
func sample(tb testing.TB, step int) [][]byte {
	if invariants.Enabled {
		step *= 16
	}
	pages := edges()
	for i, p := range testpages.Pages(tb) {
		if i%step == 0 {
			pages = append(pages, p)
		}
	}
	return pages
}

func compressPage(st *Stream, page []byte) ([]byte, error) {
	return st.compress(0, (*[PageSize]byte)(page))
}

func name(p Params) string { return p.Format() }
