package compress

import "github.com/pierrec/lz4/v4"

// lz4Codec writes plain LZ4 blocks with an encoder for pages, see lz4page.go, and
// reads them with the library's decoder, which has no state.
type lz4Codec struct {
	enc          lz4Encoder
	acceleration int
}

func newLZ4(p Params) (codec, error) {
	if len(p.Dict) != 0 {
		return newLZ4Dict(p)
	}
	return &lz4Codec{acceleration: p.level()}, nil
}

func (c *lz4Codec) compress(dst []byte, page *[PageSize]byte) int {
	return c.enc.encode((*[outSize]byte)(dst), page, c.acceleration)
}

func (c *lz4Codec) decompress(dst *[PageSize]byte, src []byte) bool { return lz4Block(dst, src) }

// lz4hc writes plain LZ4 blocks with the library's search along hash chains.
type lz4hc struct {
	enc lz4.CompressorHC
}

func newLZ4HC(p Params) (codec, error) {
	c := new(lz4hc)
	c.enc.Level = 1 << (p.level() - 1) // candidates to try
	return c, nil
}

func (c *lz4hc) compress(dst []byte, page *[PageSize]byte) int {
	n, err := c.enc.CompressBlock(page[:], dst[:PageSize])
	if err != nil {
		return 0 // does not fit
	}
	return n
}

func (c *lz4hc) decompress(dst *[PageSize]byte, src []byte) bool { return lz4Block(dst, src) }

// readLZ4HC reads what lz4hc writes, which is what lz4 reads.
func readLZ4HC(Params) (codec, error) { return &lz4Codec{acceleration: 1}, nil }

// lz4Block decodes a block that must fill dst.
func lz4Block(dst *[PageSize]byte, src []byte) bool {
	n, err := lz4.UncompressBlock(src, dst[:])
	return err == nil && n == PageSize
}
