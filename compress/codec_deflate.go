package compress

import (
	"bytes"
	"fmt"
	"io"

	"github.com/klauspost/compress/flate"
)

// deflate writes raw DEFLATE streams, one for each page.
type deflate struct {
	w    *flate.Writer
	out  limited
	r    io.ReadCloser // also a flate.Resetter
	in   bytes.Reader
	over [1]byte // where a byte after the page would go
}

func newDeflate(p Params) (codec, error) {
	c := new(deflate)
	var err error
	if c.w, err = flate.NewWriter(&c.out, p.level()); err != nil {
		return nil, fmt.Errorf("%w: deflate: %w", ErrInvalid, err)
	}
	c.r = flate.NewReader(&c.in)
	return c, nil
}

func (c *deflate) compress(dst []byte, page *[PageSize]byte) int {
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

func (c *deflate) decompress(dst *[PageSize]byte, src []byte) bool {
	c.in.Reset(src)
	defer c.in.Reset(nil)
	if err := c.r.(flate.Resetter).Reset(&c.in, nil); err != nil {
		return false
	}
	if _, err := io.ReadFull(c.r, dst[:]); err != nil {
		return false
	}
	// The stream ends here, and the bytes with it.
	n, err := io.ReadFull(c.r, c.over[:])
	return n == 0 && err == io.EOF && c.in.Len() == 0
}

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
