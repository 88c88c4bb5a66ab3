package compress

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/bits"

	"github.com/klauspost/compress/zstd"
)

// zstdCodec writes standard blocks, one for a page, without the frame around them:
// what a frame would say is the same for all pages, and is put back before the
// library reads. Framed params keep the frame, as programs before did; it has no
// checksum, since the pool has its own.
//
// Encoder and decoder are told that there is one user, and start no goroutine
// when only EncodeAll and DecodeAll are called. The encoder's state takes 1.4 MiB
// for each stream, 0.4 below level 3, 4.5 from 6 and 36 from 10. The decoder takes
// tables from sync.Pools of the process and holds them between pages; what it does
// not hold when garbage is collected, some later page allocates again, about 8
// pieces and 15 KiB.
type zstdCodec struct {
	enc  *zstd.Encoder // nil: it only reads
	dec  *zstd.Decoder
	head []byte // what each frame begins with, up to its block's header; nil: frames are kept
	in   []byte // head, a block's header, and room for a block; its first part never changes
}

// zstdBlock is the length of a block's header. It says in 3 bits that this is the
// last block and of which kind, and in the others how long it is.
const (
	zstdBlock      = 3
	zstdRLE        = 1<<1 | 1 // the last block, one byte over and over
	zstdCompressed = 2<<1 | 1 // the last block, compressed
)

// rawDictID is put into frames whose dictionary is plain content without an id.
const rawDictID = 1

// readZstd has no encoder, which is most of the state.
func readZstd(p Params) (codec, error) {
	d, err := zstdReader(p)
	if err != nil {
		return nil, err
	}
	return newZstdCodec(p, nil, d), nil
}

func newZstdCodec(p Params, e *zstd.Encoder, d *zstd.Decoder) *zstdCodec {
	c := &zstdCodec{enc: e, dec: d}
	if !p.Framed {
		c.head = zstdHead(p)
		c.in = append(c.head, make([]byte, zstdBlock+PageSize)...)
	}
	return c
}

// zstdHead is what the frame of a page begins with: the magic, that its content
// is PageSize bytes in one segment, and the number of the dictionary.
func zstdHead(p Params) []byte {
	head := []byte{0x28, 0xb5, 0x2f, 0xfd, 0}
	flags := byte(1<<6 | 1<<5) // a size of two bytes; one segment
	switch id := p.dictID(); {
	case id == 0:
	case id < 1<<8:
		flags |= 1
		head = append(head, byte(id))
	case id < 1<<16:
		flags |= 2
		head = binary.LittleEndian.AppendUint16(head, uint16(id))
	default:
		flags |= 3
		head = binary.LittleEndian.AppendUint32(head, id)
	}
	head[4] = flags
	return binary.LittleEndian.AppendUint16(head, PageSize-256)
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

// dictID is the number that frames name the dictionary by, 0 without one.
func (p Params) dictID() uint32 {
	switch {
	case p.trained():
		return binary.LittleEndian.Uint32(p.Dict[4:])
	case len(p.Dict) != 0:
		return rawDictID
	}
	return 0
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
	return newZstdCodec(p, e, d), nil
}

func (c *zstdCodec) compress(dst []byte, page *[PageSize]byte) int {
	frame := c.enc.EncodeAll(page[:], dst[:0])
	if c.head == nil {
		return len(frame)
	}
	at := len(c.head) + zstdBlock
	if len(frame) <= at || !bytes.Equal(frame[:len(c.head)], c.head) {
		return 0
	}
	block := frame[at:]
	switch h := uint32(frame[at-3]) | uint32(frame[at-2])<<8 | uint32(frame[at-1])<<16; h {
	case uint32(len(block))<<3 | zstdCompressed:
		return copy(dst, block)
	case PageSize<<3 | zstdRLE:
		// As a compressed block, so that there is one kind: literals that are one
		// byte over and over, 20 bits for how often, and no sequences.
		const literals = PageSize<<4 | 3<<2 | 1
		return copy(dst, []byte{literals & 0xff, literals >> 8 & 0xff, literals >> 16, block[0], 0})
	}
	return 0 // a block that is not compressed
}

func (c *zstdCodec) decompress(dst *[PageSize]byte, src []byte) bool {
	if c.head != nil {
		if len(src) == 0 || len(src) >= PageSize {
			return false
		}
		n, at := uint32(len(src))<<3|zstdCompressed, len(c.head)
		c.in[at], c.in[at+1], c.in[at+2] = byte(n), byte(n>>8), byte(n>>16)
		src = c.in[:at+zstdBlock+copy(c.in[at+zstdBlock:], src)]
	}
	out, err := c.dec.DecodeAll(src, dst[:0])
	return err == nil && isPage(out, dst)
}
