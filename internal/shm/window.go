package shm

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Window is a range of a region, numbered from its own start.
type Window struct {
	r      *Region // immutable
	off, n int64   // immutable; whole pages
}

// NewWindow cuts n bytes from off, both multiples of PageSize.
func NewWindow(r *Region, off, n int64) (*Window, error) {
	if _, err := r.pages("window of", off, n); err != nil {
		return nil, err
	}
	return &Window{r: r, off: off, n: n}, nil
}

// Size is the window's length in bytes.
func (w *Window) Size() int64 { return w.n }

// Bytes is Region.Bytes, from the window's start.
func (w *Window) Bytes(off, n int64) []byte {
	if off < 0 || n < 0 || off > w.n || n > w.n-off {
		panic(fmt.Sprintf("shm: [%d, +%d) is outside a window of %d bytes", off, n, w.n))
	}
	return w.r.Bytes(w.off+off, n)
}

// Populate is Region.Populate, from the window's start.
func (w *Window) Populate(off, n int64) error {
	if err := w.inside("populate", off, n); err != nil {
		return err
	}
	return w.r.Populate(w.off+off, n)
}

// Punch is Region.Punch, from the window's start.
func (w *Window) Punch(off, n int64) error {
	if err := w.inside("punch", off, n); err != nil {
		return err
	}
	return w.r.Punch(w.off+off, n)
}

// Data is Region.Data, restricted to the window.
func (w *Window) Data(yield func(off, n int64) bool) error {
	return w.r.data(w.off, w.off+w.n, func(off, n int64) bool { return yield(off-w.off, n) })
}

func (w *Window) inside(op string, off, n int64) error {
	if off < 0 || n < 0 || off > w.n || n > w.n-off {
		return fmt.Errorf("shm: %s [%d, +%d): outside a window of %d bytes of %s: %w",
			op, off, n, w.n, w.r.name, unix.EINVAL)
	}
	return nil
}
