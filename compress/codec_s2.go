package compress

import (
	"github.com/klauspost/compress/s2"
	"github.com/minio/minlz"
)

// s2Codec and minlzCodec have no state of their own: both libraries keep their
// hash tables in sync.Pools of the process. These forget them after garbage
// collections, and then the first page on a CPU allocates one: 2 KiB for minlz, 10
// for its level 2, 16 for s2, 80 for its level 2.
type s2Codec struct{ better bool }

func newS2(p Params) (codec, error) { return s2Codec{p.level() == 2}, nil }

func (c s2Codec) compress(dst []byte, page *[PageSize]byte) int {
	if c.better {
		return len(s2.EncodeBetter(dst, page[:]))
	}
	return len(s2.Encode(dst, page[:]))
}

func (s2Codec) decompress(dst *[PageSize]byte, src []byte) bool {
	// A length that is not a page's would make the library allocate.
	if n, err := s2.DecodedLen(src); err != nil || n != PageSize {
		return false
	}
	out, err := s2.Decode(dst[:], src)
	return err == nil && isPage(out, dst)
}

type minlzCodec struct{ level int }

func newMinLZ(p Params) (codec, error) { return minlzCodec{p.level()}, nil }

func (c minlzCodec) compress(dst []byte, page *[PageSize]byte) int {
	out, err := minlz.Encode(dst, page[:], c.level)
	if err != nil {
		return 0
	}
	return len(out)
}

func (minlzCodec) decompress(dst *[PageSize]byte, src []byte) bool {
	// The first byte of every block of ours is 0; another would be taken for Snappy or S2.
	if len(src) == 0 || src[0] != 0 {
		return false
	}
	if n, err := minlz.DecodedLen(src); err != nil || n != PageSize {
		return false
	}
	out, err := minlz.Decode(dst[:], src)
	return err == nil && isPage(out, dst)
}

// isPage says whether a library that may allocate gave back dst itself, filled.
func isPage(out []byte, dst *[PageSize]byte) bool {
	return len(out) == PageSize && &out[0] == &dst[0]
}
