package image

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
)

var magic = [16]byte{'z', 'r', 'a', 'm', 'f', 's', ' ', 'i', 'm', 'a', 'g', 'e', '\n'}

// Header is what is at the start of a file.
type Header struct {
	Pages uint64 // of the disk
	Flags uint64
	Time  int64 // Unix seconds
}

func (h Header) append(b []byte) []byte {
	le, at := binary.LittleEndian, len(b)
	b = append(b, magic[:]...)
	b = le.AppendUint32(b, Version)
	b = le.AppendUint32(b, PageSize)
	b = le.AppendUint64(b, h.Pages)
	b = le.AppendUint64(b, h.Flags)
	b = le.AppendUint64(b, uint64(h.Time))
	b = append(b, make([]byte, HeaderSize-4-(len(b)-at))...)
	return le.AppendUint32(b, crc32.Checksum(b[at:], table()))
}

func parseHeader(b []byte) (h Header, err error) {
	le := binary.LittleEndian
	if [16]byte(b) != magic {
		return h, ErrForeign
	}
	if le.Uint32(b[HeaderSize-4:]) != crc32.Checksum(b[:HeaderSize-4], table()) {
		return h, fmt.Errorf("%w: its header fails its checksum", ErrDamaged)
	}
	if v := le.Uint32(b[16:]); v != Version {
		return h, fmt.Errorf("%w: it is %d, this program reads %d", ErrVersion, v, Version)
	}
	if n := le.Uint32(b[20:]); n != PageSize {
		return h, fmt.Errorf("%w: pages of %d bytes, this program has %d", ErrVersion, n, PageSize)
	}
	return Header{le.Uint64(b[24:]), le.Uint64(b[32:]), int64(le.Uint64(b[40:]))}, nil
}

// Writer writes a file.
type Writer struct {
	out   *bufio.Writer
	sum   hash.Hash
	buf   []byte
	pages uint64
	bytes int64
}

// NewWriter writes the header.
func NewWriter(out io.Writer, h Header) (*Writer, error) {
	w := &Writer{out: bufio.NewWriterSize(out, 1<<20), sum: sha256.New()}
	w.buf = h.append(w.buf[:0])
	return w, w.flush()
}

func (w *Writer) flush() error {
	w.sum.Write(w.buf)
	w.bytes += int64(len(w.buf))
	_, err := w.out.Write(w.buf)
	return err
}

// Put writes a record that is no End.
func (w *Writer) Put(r Record) error {
	if r.Kind != Params {
		w.pages++
	}
	w.buf = Append(w.buf[:0], r)
	return w.flush()
}

// Bytes says how long the file is by now.
func (w *Writer) Bytes() int64 { return w.bytes }

// Close writes the end record; the file is still to be synced.
func (w *Writer) Close() error {
	payload := binary.LittleEndian.AppendUint64(nil, w.pages)
	payload = w.sum.Sum(payload)
	w.buf = Append(w.buf[:0], Record{Kind: End, Payload: payload})
	return errors.Join(w.flush(), w.out.Flush())
}

// Reader reads a file, and finds every damage to it: that to a record before
// it gives the record, that to the whole before it gives io.EOF.
type Reader struct {
	Header

	in     *bufio.Reader
	sum    hash.Hash
	buf    []byte
	known  [256]bool // numbers of parameters
	pages  uint64
	next   uint64 // least number of the next page
	offset int64
}

// NewReader reads the header.
func NewReader(in io.Reader) (*Reader, error) {
	r := &Reader{in: bufio.NewReaderSize(in, 1<<16), sum: sha256.New(), buf: make([]byte, HeaderSize, 1<<16)}
	if _, err := io.ReadFull(r.in, r.buf); err != nil {
		return nil, short(err, ErrForeign)
	}
	var err error
	if r.Header, err = parseHeader(r.buf); err != nil {
		return nil, err
	}
	r.sum.Write(r.buf)
	r.offset = HeaderSize
	return r, nil
}

// short says what a file is that ends too early.
func short(err, what error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return fmt.Errorf("%w: it ends too early", what)
	}
	return err
}

// Offset says how much of the file was read.
func (r *Reader) Offset() int64 { return r.offset }

// Next gives the next record, in memory that the one after it uses. io.EOF: all
// were read, and the file is what was written.
func (r *Reader) Next() (Record, error) {
	r.buf = r.buf[:HeadSize]
	if _, err := io.ReadFull(r.in, r.buf); err != nil {
		return Record{}, short(err, ErrDamaged)
	}
	n := int64(binary.LittleEndian.Uint32(r.buf[8:]))
	if n > MaxPayload {
		return Record{}, r.damaged("a record that is too long")
	}
	if int64(cap(r.buf)) < HeadSize+n {
		r.buf = append(make([]byte, 0, HeadSize+n), r.buf...)
	}
	r.buf = r.buf[:HeadSize+n]
	if _, err := io.ReadFull(r.in, r.buf[HeadSize:]); err != nil {
		return Record{}, short(err, ErrDamaged)
	}
	rec, err := decode(r.buf[:HeadSize], r.buf[HeadSize:])
	if err != nil {
		return Record{}, r.damaged("a record that fails its checksum")
	}
	if err := r.check(rec); err != nil {
		return Record{}, err
	}
	r.sum.Write(r.buf)
	r.offset += int64(len(r.buf))
	return rec, nil
}

// check sees that a record may come now.
func (r *Reader) check(rec Record) error {
	switch rec.Kind {
	case End:
		return r.finish(rec)
	case Away, Next:
		return r.damaged("a record that is for no file")
	case Params:
		if r.known[rec.Number] {
			return r.damaged("compression parameters that were there before")
		}
		r.known[rec.Number] = true
		return nil
	case Compressed:
		if !r.known[rec.Number] {
			return r.damaged("a page of compression parameters that are missing")
		}
	}
	if rec.Page < r.next || rec.Page >= r.Pages {
		return r.damaged("a page out of its order")
	}
	r.next = rec.Page + 1
	r.pages++
	return nil
}

// finish compares the whole with the end record.
func (r *Reader) finish(rec Record) error {
	if binary.LittleEndian.Uint64(rec.Payload) != r.pages || rec.Page != 0 || rec.Number != 0 ||
		[32]byte(r.sum.Sum(nil)) != [32]byte(rec.Payload[8:]) {
		return r.damaged("an end that does not fit what is before it")
	}
	if _, err := r.in.ReadByte(); err != io.EOF {
		return r.damaged("bytes behind its end")
	}
	return io.EOF
}

func (r *Reader) damaged(what string) error {
	return fmt.Errorf("%w: at byte %d it has %s", ErrDamaged, r.offset, what)
}
