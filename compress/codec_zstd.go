package compress

import (
	"encoding/binary"
	"fmt"
	"math/bits"

	"github.com/klauspost/compress/zstd"
)

// zstdCodec writes standard frames without a checksum: the pool has its own.
// Encoder and decoder are told that there is one user, and start no goroutine
// when only EncodeAll and DecodeAll are called. The encoder's state takes 1.4 MiB
// for each stream, 0.4 below level 3, 4.5 from 6 and 36 from 10. The decoder takes
// tables from sync.Pools of the process and holds them between pages; what it does
// not hold when garbage is collected, some later page allocates again, about 8
// pieces and 15 KiB.
type zstdCodec struct {
	enc *zstd.Encoder
	dec *zstd.Decoder
}

// rawDictID is put into frames whose dictionary is plain content without an id.
const rawDictID = 1

// readZstd has no encoder, which is most of the state.
func readZstd(p Params) (codec, error) {
	d, err := zstdReader(p)
	if err != nil {
		return nil, err
	}
	return &zstdCodec{dec: d}, nil
}

func zstdReader(p Params) (*zstd.Decoder, error) {
	dec := []zstd.DOption{
		zstd.WithDecoderConcurrency(1),
		zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxMemory(PageSize),
		zstd.WithDecodeAllCapLimit(true),
	}
	if p.trained() {
		dec = append(dec, zstd.WithDecoderDicts(p.Dict))
	} else if len(p.Dict) != 0 {
		dec = append(dec, zstd.WithDecoderDictRaw(rawDictID, p.Dict))
	}
	d, err := zstd.NewReader(nil, dec...)
	if err != nil {
		return nil, fmt.Errorf("%w: zstd: %w", ErrInvalid, err)
	}
	return d, nil
}

// trained says whether the dictionary is one that zstd has made.
func (p Params) trained() bool {
	return len(p.Dict) >= 8 && binary.LittleEndian.Uint32(p.Dict) == 0xEC30A437
}

func newZstd(p Params) (codec, error) {
	// The encoder looks back over its window: a page, and the dictionary before it.
	window := 1 << bits.Len(uint(PageSize+len(p.Dict)-1))
	if window > zstd.MaxWindowSize {
		return nil, fmt.Errorf("%w: zstd: a dictionary of %d bytes", ErrInvalid, len(p.Dict))
	}
	enc := []zstd.EOption{
		zstd.WithEncoderConcurrency(1),
		zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(p.level())),
		zstd.WithEncoderCRC(false),
		zstd.WithSingleSegment(true), // two bytes less: no window in the frame's header
		zstd.WithWindowSize(window),
		zstd.WithLowerEncoderMem(true),
	}
	if p.trained() {
		enc = append(enc, zstd.WithEncoderDict(p.Dict))
	} else if len(p.Dict) != 0 {
		enc = append(enc, zstd.WithEncoderDictRaw(rawDictID, p.Dict))
	}
	e, err := zstd.NewWriter(nil, enc...)
	if err != nil {
		return nil, fmt.Errorf("%w: zstd: %w", ErrInvalid, err)
	}
	d, err := zstdReader(p)
	if err != nil {
		return nil, err
	}
	return &zstdCodec{e, d}, nil
}

func (c *zstdCodec) compress(dst []byte, page *[PageSize]byte) int {
	return len(c.enc.EncodeAll(page[:], dst[:0]))
}

func (c *zstdCodec) decompress(dst *[PageSize]byte, src []byte) bool {
	out, err := c.dec.DecodeAll(src, dst[:0])
	return err == nil && isPage(out, dst)
}
