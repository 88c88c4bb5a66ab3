package stable

// PageSize is the size of a page in bytes, the only one zramfs knows.
const PageSize = 4096

// View is one page whose bytes are promised not to change until Release. It
// is the only input that a compressor accepts.
type View struct {
	page  *[PageSize]byte
	stats *Stats // nil: not audited
	sum   uint32
}

// Bytes gives the page. The caller must not write to it.
func (v View) Bytes() []byte { return v.page[:] }
