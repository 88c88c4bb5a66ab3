package stable

// View is one page whose bytes are promised not to change until Release. It
// is the only input that a compressor accepts.
//
// Invariant: between the call that made it and Release nobody writes to the
// page. An audited view carries the hash it had when it was made; a mismatch
// at Release means that somebody broke the promise, and is counted as caught.
type View struct {
	page  *[PageSize]byte
	audit *Stats // nil: not audited
	sum   uint32 // CRC-32C when the view was made; valid if audit is set
}

// Borrow makes a view of a page that is private to the calling operation: its
// bytes lie in a request's own buffer or in scratch that nobody else holds.
// page is exactly PageSize bytes.
func Borrow(page []byte, stats *Stats) View {
	v := View{page: (*[PageSize]byte)(page)}
	if stats != nil && stats.audits() {
		v.audit, v.sum = stats, castagnoli(page)
	}
	return v
}

// Bytes gives the page. The caller must not write to it.
func (v View) Bytes() []byte { return v.page[:] }

// Release ends the promise and says whether it was kept, as far as known.
func (v View) Release() bool {
	if v.audit == nil {
		return true
	}
	v.audit.Audited.Add(1)
	if castagnoli(v.page[:]) == v.sum {
		return true
	}
	v.audit.Caught.Add(1)
	return false
}
