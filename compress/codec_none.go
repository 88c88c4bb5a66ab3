package compress

// none compresses nothing: every page is stored as it is.
type none struct{}

func newNone(Params) (codec, error) { return none{}, nil }

func (none) compress([]byte, *[PageSize]byte) int { return 0 }

func (none) decompress(dst *[PageSize]byte, src []byte) bool {
	return len(src) == PageSize && copy(dst[:], src) == PageSize
}
