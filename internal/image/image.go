// Package image is the format of a saved disk: what `zramfs save` writes, what
// `zramfs restore` reads, and what a worker hands out of a disk for it.
//
// A file is a header, records, and an end record. All numbers are little
// endian. The header is
//
//	0   "zramfs image\n", padded with zeroes to 16 bytes
//	16  version, uint32
//	20  page size, uint32
//	24  pages of the disk, uint64
//	32  flags, uint64
//	40  when it was saved, Unix seconds, uint64
//	48  zeroes
//	60  CRC-32C of the 60 bytes before
//
// and a record
//
//	0   CRC-32C of the rest of it, uint32
//	4   kind, uint8
//	5   number of the compression parameters, uint8
//	6   zeroes
//	8   length of the payload, uint32
//	12  number of the page, uint64
//	20  payload
//
// Pages come in ascending order, each once; those that are not there are empty.
// Parameters come before the first page that needs them. The end record carries
// the SHA-256 of all that lies before it, and nothing follows it. So each byte of
// a file is under a checksum of its own neighbourhood, which tells where damage
// is, and under one of the whole, which tells what is missing.
//
// This package opens no files and knows no disks; it keeps no state but a
// Writer's and a Reader's.
package image

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
)

// Version is the version of the format that is written, and read.
const Version = 1

const (
	// PageSize is the size of a page, raw.
	PageSize = 4096
	// HeaderSize is the size of a file's header.
	HeaderSize = 64
	// HeadSize is the size of a record without its payload.
	HeadSize = 20
	// MaxPayload is the largest payload: parameters with their dictionary.
	MaxPayload = 1 << 20
)

// Where a worker hands out what an image is made of: a read of its file from the
// page's place on the disk gives records of pages from there on, and a Next; one
// from ParamsAt and the number of parameters times 2^32 gives the payload of their
// record; one from InfoAt gives text, "name value" a line.
const (
	ParamsAt = 1 << 60
	InfoAt   = 1 << 61
)

// Flags of a header.
const (
	// Live: the disk was open for writing while it was saved, so its pages are
	// each as it was at some time meanwhile.
	Live = 1 << 0
)

// Kind is what a record is.
type Kind uint8

// The kinds of records.
const (
	// Params: the payload is compression parameters, by the record's number: the
	// length of their text, uint32, the text, and the dictionary.
	Params Kind = 1
	// Same: the payload is the machine word that fills the page, uint64.
	Same Kind = 2
	// Raw: the payload is the page.
	Raw Kind = 3
	// Compressed: the payload is the page compressed with the parameters of the
	// record's number.
	Compressed Kind = 4
	// Lost: the page could not be read when it was saved.
	Lost Kind = 5
	// End: the payload is the number of pages, uint64, and the SHA-256.
	End Kind = 6

	// Away and Next are for who saves, never in a file. Away: the page is to be
	// read through the disk. Next: the number is the page to go on with.
	Away Kind = 64
	Next Kind = 65
)

// Sentinel errors.
var (
	// ErrDamaged: the file is not what was written.
	ErrDamaged = errors.New("image is damaged")
	// ErrForeign: the file is no image.
	ErrForeign = errors.New("not an image of zramfs")
	// ErrVersion: the file has another format.
	ErrVersion = errors.New("unknown version of the image format")
)

// Record is one record. Payload belongs to who made it.
type Record struct {
	Kind    Kind
	Number  uint8 // of the parameters
	Page    uint64
	Payload []byte
}

func table() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// Append puts a record behind b. It allocates only what b has no room for.
func Append(b []byte, r Record) []byte {
	le, at := binary.LittleEndian, len(b)
	b = append(b, 0, 0, 0, 0, byte(r.Kind), r.Number, 0, 0)
	b = le.AppendUint32(b, uint32(len(r.Payload)))
	b = le.AppendUint64(b, r.Page)
	b = append(b, r.Payload...)
	le.PutUint32(b[at:], crc32.Checksum(b[at+4:], table()))
	return b
}

// Parse takes the first record off b. What it gives lies in b.
func Parse(b []byte) (r Record, rest []byte, err error) {
	if len(b) < HeadSize {
		return r, b, ErrDamaged
	}
	n := int(binary.LittleEndian.Uint32(b[8:]))
	if n > MaxPayload || len(b) < HeadSize+n {
		return r, b, ErrDamaged
	}
	r, err = decode(b[:HeadSize:HeadSize], b[HeadSize:HeadSize+n:HeadSize+n])
	return r, b[HeadSize+n:], err
}

// decode reads a record whose head and payload are there.
func decode(head, payload []byte) (Record, error) {
	le := binary.LittleEndian
	sum := crc32.Update(crc32.Checksum(head[4:], table()), table(), payload)
	if le.Uint32(head) != sum || head[6] != 0 || head[7] != 0 {
		return Record{}, ErrDamaged
	}
	r := Record{Kind: Kind(head[4]), Number: head[5], Page: le.Uint64(head[12:]), Payload: payload}
	n := len(payload)
	switch r.Kind {
	case Params:
		if n < 4 || int64(le.Uint32(payload)) > int64(n-4) {
			return Record{}, ErrDamaged
		}
	case Same:
		if n != 8 {
			return Record{}, ErrDamaged
		}
	case Raw:
		if n != PageSize {
			return Record{}, ErrDamaged
		}
	case Compressed:
		if n == 0 || n >= PageSize {
			return Record{}, ErrDamaged
		}
	case Lost, Away, Next:
		if n != 0 {
			return Record{}, ErrDamaged
		}
	case End:
		if n != 8+32 {
			return Record{}, ErrDamaged
		}
	default:
		return Record{}, ErrDamaged
	}
	return r, nil
}

// AppendParams puts the payload of a Params record behind b.
func AppendParams(b []byte, text string, dict []byte) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(len(text)))
	return append(append(b, text...), dict...)
}

// Params gives what AppendParams put together, of a Params record.
func (r Record) Params() (text string, dict []byte) {
	n := binary.LittleEndian.Uint32(r.Payload)
	return string(r.Payload[4 : 4+n]), r.Payload[4+n:]
}

// Element gives what fills a page, of a Same record.
func (r Record) Element() uint64 { return binary.LittleEndian.Uint64(r.Payload) }
