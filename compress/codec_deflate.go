package compress

import (
	"fmt"
	"io"

	"github.com/klauspost/compress/flate"
)

// deflate writes raw DEFLATE streams, one for each page, with the library's
// writer, and reads them with an inflater of its own, see inflate.go.
type deflate struct {
	w   *flate.Writer
	out limited
	in  *inflater
}

// readDeflate has no writer, which is most of the state.
func readDeflate(Params) (codec, error) { return &deflate{in: newInflater()}, nil }

func newDeflate(p Params) (codec, error) {
	c := &deflate{in: newInflater()}
	var err error
	if c.w, err = flate.NewWriter(&c.out, p.level()); err != nil {
		return nil, fmt.Errorf("%w: deflate: %w", ErrInvalid, err)
	}
	return c, nil
}

func (c *deflate) compress(dst []byte, page *[PageSize]byte) int {
	if c.w == nil {
		panic("compress: this deflate only reads")
	}
	c.out = limited{to: dst}
	c.w.Reset(&c.out)
	_, err := c.w.Write(page[:])
	if err == nil {
		err = c.w.Close()
	}
	n := c.out.n
	c.out = limited{}
	if err != nil {
		return 0
	}
	return n
}

func (c *deflate) decompress(dst *[PageSize]byte, src []byte) bool { return c.in.page(dst, src) }

// limited is a Writer into a slice that fails when it is full.
type limited struct {
	to []byte
	n  int
}

func (l *limited) Write(p []byte) (int, error) {
	n := copy(l.to[l.n:], p)
	l.n += n
	if n < len(p) {
		return n, io.ErrShortWrite
	}
	return n, nil
}
