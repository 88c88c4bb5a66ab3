package compress

// brotliCodec writes and reads brotli streams of a page, see brotli.go, with code
// of its own: the library would bring net/http into the program, 2 MiB that every
// process has to lock, allocates while it reads, and takes 36 µs for a page. What
// is written is read back, so a page that would not come back stays as it is.
type brotliCodec struct {
	w    *brotliWriter // nil: it only reads
	r    *brotliReader // 14 KiB
	back [PageSize]byte
}

// readBrotli has no writer, which is most of the state.
func readBrotli(Params) (codec, error) { return &brotliCodec{r: newBrotliReader()}, nil }

func newBrotli(p Params) (codec, error) {
	return &brotliCodec{w: newBrotliWriter(p.level()), r: newBrotliReader()}, nil
}

func (c *brotliCodec) compress(dst []byte, page *[PageSize]byte) int {
	if c.w == nil {
		panic("compress: this brotli only reads")
	}
	n := c.w.page(dst, page)
	if n == 0 || !c.r.page(&c.back, dst[:n]) || c.back != *page {
		return 0
	}
	return n
}

func (c *brotliCodec) decompress(dst *[PageSize]byte, src []byte) bool { return c.r.page(dst, src) }
