package blockdev

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/zramfs/zramfs/compress"
	"github.com/zramfs/zramfs/internal/invariants"
)

// The table of params lies in the header: 16 rows of paramsRow bytes.
//
//	0   length of the text, 0 if there is no row; stored last
//	4   CRC-32C of what follows
//	8   priority: 0 for what writes are compressed with, 1 to 3 for recompress
//	12  where in the header its dictionary is, its length, and its CRC-32C
//	24  the text that compress.ParseFormat reads
//
// A row is written before the first word that names it, and never changes. So
// what a live change of algorithm leaves behind stays readable.
const (
	maxParams  = 16
	paramsRow  = 256
	paramsText = 24 // where the text begins
)

// codecRow is what a params number of a word means.
type codecRow struct {
	codec    uint8 // in disk.codecs; two priorities may share one
	priority uint8
	tag      uint32 // the CRC of the row
	text     string
	dict     dictionarySpan
}

// wanted is an algorithm that a disk is to have.
type wanted struct {
	params compress.Params
	file   dictionaryFile // where its dictionary came from; whoever adopts has no bytes of it, only this
	prio   uint8
}

func (d *disk) paramsRow(i int) []byte {
	return d.region.Bytes(int64(paramsAt+i*paramsRow), paramsRow)
}

// rowOf gives the row that a word names; nil if there is none, as in a word that
// was damaged.
func (d *disk) rowOf(w word) *codecRow {
	if i := uint32(w.params()); i < d.rowCount.Load() {
		return &d.rows[i]
	}
	return nil
}

// priorityOf gives the priority of the algorithm that a stored page was
// compressed with, 0 of any other.
func (d *disk) priorityOf(w word) uint8 {
	if s := w.state(); s == stored || s == backed && w.size() != PageSize {
		if r := d.rowOf(w); r != nil {
			return r.priority
		}
	}
	return 0
}

// openParams adds the params that the header names, in their order, and then
// the ones that the disk is to have, if they are not among them.
func (d *disk) openParams(want []wanted) error {
	for i := range maxParams {
		row := d.paramsRow(i)
		n := binary.LittleEndian.Uint32(row)
		if n == 0 {
			break
		}
		if n > paramsRow-paramsText || binary.LittleEndian.Uint32(row[4:]) != paramsSum(row[8:paramsText+n]) {
			return fmt.Errorf("params %d in the header fail their checksum: %w", i, ErrCorrupt)
		}
		if err := d.openRow(i, row, string(row[paramsText:][:n])); err != nil {
			return fmt.Errorf("params %d in the header: %w", i, err)
		}
	}
	for _, w := range want {
		if err := d.use(w); err != nil {
			return err
		}
	}
	return nil
}

// openRow takes up a row that is in the header.
func (d *disk) openRow(i int, row []byte, text string) error {
	p, err := compress.ParseFormat(text)
	if err != nil {
		return err
	}
	le := binary.LittleEndian
	span := dictionarySpan{le.Uint32(row[12:]), le.Uint32(row[16:]), le.Uint32(row[20:])}
	if row[8] > maxPriority || !span.inside() {
		return fmt.Errorf("priority %d, dictionary of %d bytes: %w", row[8], span.n, ErrCorrupt)
	}
	if span.n != 0 {
		if p.Dict = d.region.Bytes(int64(span.at), int64(span.n)); paramsSum(p.Dict) != span.sum {
			return fmt.Errorf("the dictionary fails its checksum: %w", ErrCorrupt)
		}
	}
	return d.addRow(i, p, codecRow{priority: row[8], tag: le.Uint32(row[4:]), text: text, dict: span})
}

// addRow gives params their number.
func (d *disk) addRow(i int, p compress.Params, r codecRow) (err error) {
	add := d.codecs.Add
	if r.priority > 0 {
		add = d.codecs.AddSpare // only a pass compresses with it
	}
	if r.codec, err = add(p); err != nil {
		if errors.Is(err, compress.ErrInvalid) {
			return fmt.Errorf("set up %s: %w: %w", p, ErrInvalid, err)
		}
		return fmt.Errorf("set up %s: %w", p, err)
	}
	d.rows[i] = r
	d.rowCount.Store(uint32(i + 1))
	return nil
}

// use makes what is wanted the algorithm of its priority, with the number that
// it has had before, or a new one. A row of an older program goes on in its own
// format, so that this program may still give way to that one.
func (d *disk) use(w wanted) error {
	text, older, sum := w.params.Format(), w.params.String(), paramsSum(w.params.Dict)
	if w.params.Dict == nil {
		sum = w.file.sum
	}
	n := int(d.rowCount.Load())
	for i := range n {
		if r := &d.rows[i]; r.priority == w.prio && (r.text == text || r.text == older) && r.dict.sum == sum {
			d.byPriority[w.prio].Store(uint32(i + 1))
			return nil
		}
	}
	if w.params.Dict == nil && w.file.path != "" {
		return fmt.Errorf("the header has no dictionary %s of %s: %w", w.file.path, text, ErrCorrupt)
	}
	if err := d.addParams(n, w, text); err != nil {
		return err
	}
	d.byPriority[w.prio].Store(uint32(n + 1))
	return nil
}

// addParams writes a row.
func (d *disk) addParams(i int, w wanted, text string) error {
	if i == maxParams {
		return fmt.Errorf("the device has %d sets of compression parameters already, one for each that it ever had; reset forgets them: %w", maxParams, ErrNoSpace)
	}
	if len(text) > paramsRow-paramsText {
		return fmt.Errorf("compression parameters %q: %w", text, ErrTooBig)
	}
	span, err := d.keepDictionary(w.params.Dict)
	if err != nil {
		return err
	}
	row, le := make([]byte, paramsText+len(text)), binary.LittleEndian
	row[8] = w.prio
	le.PutUint32(row[12:], span.at)
	le.PutUint32(row[16:], span.n)
	le.PutUint32(row[20:], span.sum)
	copy(row[paramsText:], text)
	tag := paramsSum(row[8:])
	le.PutUint32(row[4:], tag)
	if err := d.addRow(i, w.params, codecRow{priority: w.prio, tag: tag, text: text, dict: span}); err != nil {
		return err
	}
	to := d.paramsRow(i)
	invariants.CrashPoint("life.params.begin")
	invariants.Copy("life.params.half", to[4:], row[4:])
	invariants.CrashPoint("life.params")
	le.PutUint32(to, uint32(len(text)))
	invariants.CrashPoint("life.params.end")
	return nil
}

// current gives the number of what writes are compressed with.
func (d *disk) current() uint8 { return uint8(d.byPriority[0].Load() - 1) }

// secondary gives the number of the params of a priority; false: there are none.
func (d *disk) secondary(prio uint8) (uint8, bool) {
	n := d.byPriority[prio].Load()
	return uint8(n - 1), n != 0
}

func paramsSum(text []byte) uint32 { return crc32.Checksum(text, crc32.MakeTable(crc32.Castagnoli)) }

// seed is what the CRC of a slot's object starts from. It ties the bytes to all
// that is needed to read them: slot, state, size, and which codec.
func (d *disk) seed(slot uint64, w word) uint32 {
	if w.state() == stored {
		if r := d.rowOf(w); r != nil {
			return w.seed(slot) ^ r.tag
		}
	}
	return w.seed(slot)
}
