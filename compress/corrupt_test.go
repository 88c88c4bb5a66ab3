package compress

import (
	"bytes"
	"math/rand"
	"testing"

	"github.com/pierrec/lz4/v4"

	"github.com/zramfs/zramfs/internal/testpages"
)

// guarded is a page with canaries around it.
type guarded [3 * PageSize]byte

func (g *guarded) arm()         { fill(g[:], 0xa5) }
func (g *guarded) page() []byte { return g[PageSize : 2*PageSize : 2*PageSize] }
func (g *guarded) hurt() bool {
	return bytes.Count(g[:PageSize], []byte{0xa5}) != PageSize || bytes.Count(g[2*PageSize:], []byte{0xa5}) != PageSize
}

func fill(b []byte, with byte) {
	for i := range b {
		b[i] = with
	}
}

// attempt decompresses whatever src is and checks all that may be promised:
// no panic, no byte outside dst, src unchanged, one of two answers.
func attempt(tb testing.TB, st *Stream, g *guarded, src []byte) {
	tb.Helper()
	before := bytes.Clone(src)
	g.arm()
	err := st.Decompress(0, g.page(), src)
	if err != nil && err != ErrCorrupt {
		tb.Fatalf("%v", err)
	}
	if g.hurt() {
		tb.Fatalf("wrote outside the page for %x", src)
	}
	if !bytes.Equal(before, src) {
		tb.Fatal("wrote to its input")
	}
}

func TestCorruptInput(t *testing.T) {
	pages := sample(t, 331)
	for _, p := range every() {
		t.Run(name(p), func(t *testing.T) {
			st := one(t, p)
			rnd := rand.New(rand.NewSource(2))
			g := new(guarded)
			for _, page := range pages {
				c, err := compressPage(st, page)
				if err != nil {
					c = page
				}
				good := bytes.Clone(c)
				for range 20 { // some bits flipped
					bad := bytes.Clone(good)
					for range 1 + rnd.Intn(4) {
						bad[rnd.Intn(len(bad))] ^= 1 << rnd.Intn(8)
					}
					attempt(t, st, g, bad)
				}
				for range 5 { // cut off, with and without something else behind
					n := rnd.Intn(len(good))
					attempt(t, st, g, good[:n:n])
					if err := st.Decompress(0, g.page(), good[:n:n]); err == nil && !bytes.Equal(g.page(), page) {
						t.Fatalf("%d of %d bytes are some other page", n, len(good))
					}
					tail := make([]byte, rnd.Intn(64))
					rnd.Read(tail)
					attempt(t, st, g, append(bytes.Clone(good[:n]), tail...))
				}
				for range 5 { // noise in the middle
					bad := bytes.Clone(good)
					from := rnd.Intn(len(bad))
					rnd.Read(bad[from:min(from+16, len(bad))])
					attempt(t, st, g, bad)
				}
				// The stream works as before.
				if err == nil {
					if err := st.Decompress(0, g.page(), good); err != nil || !bytes.Equal(g.page(), page) {
						t.Fatalf("after corrupt input a good page comes back wrong: %v", err)
					}
				}
			}
			for _, n := range []int{0, 1, 2, 3, 4, 8, 16, 100, 4095, 4096, 4097, 9000} {
				for _, with := range []byte{0, 1, 0x0f, 0xf0, 0xff} {
					src := make([]byte, n)
					fill(src, with)
					attempt(t, st, g, src)
				}
				src := make([]byte, n)
				for range 50 {
					rnd.Read(src)
					attempt(t, st, g, src)
				}
			}
		})
	}
}

// Every prefix of a block is an error: no length is taken on trust.
func TestTruncated(t *testing.T) {
	page := testpages.Pages(t)[4000]
	for _, p := range every() {
		st := one(t, p)
		c, err := compressPage(st, page)
		if err != nil {
			c = page
		}
		good := bytes.Clone(c)
		out := make([]byte, PageSize)
		for n := range good {
			if st.Decompress(0, out, good[:n:n]) == nil {
				t.Errorf("%v: %d of %d bytes are taken for a page", p, n, len(good))
			}
		}
	}
}

// A block that unpacks to one byte less or more than a page is corrupt.
func TestWrongLength(t *testing.T) {
	st := one(t, Params{Codec: "none"})
	out := make([]byte, PageSize)
	for _, n := range []int{PageSize - 1, PageSize + 1} {
		if err := st.Decompress(0, out, make([]byte, n)); err != ErrCorrupt {
			t.Errorf("none, %d bytes: %v", n, err)
		}
	}
	// LZ4 by hand: a literal, and a match that makes a run of n zeros.
	st = one(t, Params{Codec: "lz4"})
	for n := PageSize - 3; n <= PageSize+3; n++ {
		block := []byte{0x1f, 0, 1, 0} // one literal 0, then offset 1
		rest := n - 1 - 5 - 19
		for ; rest >= 255; rest -= 255 {
			block = append(block, 255)
		}
		block = append(block, byte(rest), 0x50, 0, 0, 0, 0, 0)
		if err := st.Decompress(0, out, block); (err == nil) != (n == PageSize) {
			t.Errorf("lz4 block of %d bytes: %v", n, err)
		}
	}
}

func fuzzCorrupt(f *testing.F, codec string) {
	st := NewSet(1)
	if _, err := st.Add(Params{Codec: codec}); err != nil {
		f.Fatal(err)
	}
	stream := st.Stream(0)
	stream.Lock()
	for i, page := range sample(f, 1024) {
		if c, err := compressPage(stream, page); err == nil {
			f.Add(bytes.Clone(c))
			f.Add(bytes.Clone(c[:len(c)/2]))
			if i%4 == 0 {
				f.Add(append(bytes.Clone(c), 0))
			}
		}
	}
	f.Add([]byte(nil))
	g := new(guarded)
	f.Fuzz(func(t *testing.T, src []byte) { attempt(t, stream, g, src) })
}

func FuzzCorruptLZ4(f *testing.F)     { fuzzCorrupt(f, "lz4") }
func FuzzCorruptLZ4HC(f *testing.F)   { fuzzCorrupt(f, "lz4hc") }
func FuzzCorruptZstd(f *testing.F)    { fuzzCorrupt(f, "zstd") }
func FuzzCorruptMinLZ(f *testing.F)   { fuzzCorrupt(f, "minlz") }
func FuzzCorruptS2(f *testing.F)      { fuzzCorrupt(f, "s2") }
func FuzzCorruptDeflate(f *testing.F) { fuzzCorrupt(f, "deflate") }
func FuzzCorruptBrotli(f *testing.F)  { fuzzCorrupt(f, "brotli") }
func FuzzCorruptNone(f *testing.F)    { fuzzCorrupt(f, "none") }

func fuzzRoundTrip(f *testing.F, codec string) {
	set := NewSet(1)
	var levels []uint8
	for _, p := range every() {
		if p.Codec == codec {
			id, err := set.Add(p)
			if err != nil {
				f.Fatal(err)
			}
			levels = append(levels, id)
		}
	}
	st := set.Stream(0)
	st.Lock()
	for _, page := range sample(f, 1024) {
		f.Add(page)
	}
	out := make([]byte, PageSize)
	f.Fuzz(func(t *testing.T, data []byte) {
		var page [PageSize]byte
		for n := 0; len(data) != 0 && n < PageSize; { // short inputs repeat
			n += copy(page[n:], data)
		}
		for _, id := range levels {
			c, err := st.compress(id, &page)
			if err == ErrIncompressible {
				continue
			}
			if err != nil || len(c) >= PageSize {
				t.Fatal(len(c), err)
			}
			if err := st.Decompress(id, out, c); err != nil || !bytes.Equal(out, page[:]) {
				t.Fatalf("params %d: %v", id, err)
			}
		}
	})
}

func FuzzRoundTripLZ4(f *testing.F)     { fuzzRoundTrip(f, "lz4") }
func FuzzRoundTripLZ4HC(f *testing.F)   { fuzzRoundTrip(f, "lz4hc") }
func FuzzRoundTripZstd(f *testing.F)    { fuzzRoundTrip(f, "zstd") }
func FuzzRoundTripMinLZ(f *testing.F)   { fuzzRoundTrip(f, "minlz") }
func FuzzRoundTripS2(f *testing.F)      { fuzzRoundTrip(f, "s2") }
func FuzzRoundTripDeflate(f *testing.F) { fuzzRoundTrip(f, "deflate") }
func FuzzRoundTripBrotli(f *testing.F)  { fuzzRoundTrip(f, "brotli") }
func FuzzRoundTripNone(f *testing.F)    { fuzzRoundTrip(f, "none") }

// No page makes a block longer than the format's bound, which fits the output
// buffer, and nothing is written behind what the last copy of 16 may touch.
func TestLZ4Bound(t *testing.T) {
	var e lz4Encoder
	bound := lz4.CompressBlockBound(PageSize)
	rnd := rand.New(rand.NewSource(3))
	pages := sample(t, 900)
	// Matches of four bytes, each with a literal or two between: the most that a page
	// can have of sequences.
	for between := range 4 {
		page := make([]byte, PageSize)
		rnd.Read(page)
		for i := 64; i+8 <= PageSize; i += 4 + between {
			copy(page[i:i+4], page[rnd.Intn(i-3):])
		}
		pages = append(pages, page)
	}
	for _, page := range pages {
		for _, acceleration := range []int{1, 3, 70_000} {
			var dst [outSize]byte
			fill(dst[:], 0xa5)
			if n := e.encode(&dst, (*[PageSize]byte)(page), acceleration); n >= PageSize {
				t.Fatalf("%d bytes", n)
			}
			if tail := dst[bound+16:]; bytes.Count(tail, []byte{0xa5}) != len(tail) {
				t.Fatal("wrote behind what a block may take")
			}
		}
	}
}
