package blockdev

// The waiting forms of Submit, for callers that have a goroutine to spare: the
// stock go-fuse transport, tools and tests. They allocate.

// ReadAt reads from the disk; fewer bytes than asked for only at its end.
func (d *Device) ReadAt(p []byte, off int64) (int, error) {
	return d.Do(&Request{Op: OpRead, Data: p, Off: off})
}

// WriteAt writes to the disk.
func (d *Device) WriteAt(p []byte, off int64) (int, error) {
	return d.Do(&Request{Op: OpWrite, Data: p, Off: off})
}

// Discard empties a range; it reads as zeroes afterwards.
func (d *Device) Discard(off, n int64) error {
	_, err := d.Do(&Request{Op: OpDiscard, Off: off, Len: n})
	return err
}

// Do submits r and waits for its answer; it sets r.Done.
func (d *Device) Do(r *Request) (int, error) {
	type answer struct {
		n   int
		err error
	}
	answered := make(chan answer, 1)
	r.Done = func(_ *Request, n int, err error) { answered <- answer{n, err} }
	n, parked, err := d.Submit(r)
	if parked {
		a := <-answered
		return a.n, a.err
	}
	return n, err
}
