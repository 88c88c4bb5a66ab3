package blockdev

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/zramfs/zramfs/compress"
	"github.com/zramfs/zramfs/internal/invariants"
)

// The table of params lies in the header: 16 rows of paramsRow bytes, each a
// length, a CRC-32C, and the text that compress parses. A row is written before
// the first word that names it, its length last, and never changes.
const (
	maxParams  = 16
	paramsRow  = 256
	paramsText = 8 // where the text begins
)

func (d *disk) paramsRow(i int) []byte {
	return d.region.Bytes(int64(paramsAt+i*paramsRow), paramsRow)
}

// openParams adds the params that the header names, in their order, and then
// the ones that new objects are to get, if they are not among them.
func (d *disk) openParams(current compress.Params) error {
	i, found := 0, false
	for ; i < maxParams; i++ {
		row := d.paramsRow(i)
		n := binary.LittleEndian.Uint32(row)
		if n == 0 {
			break
		}
		if n > paramsRow-paramsText || binary.LittleEndian.Uint32(row[4:]) != paramsSum(row[paramsText:][:n]) {
			return fmt.Errorf("params %d in the header fail their checksum: %w", i, ErrCorrupt)
		}
		text := string(row[paramsText:][:n])
		p, err := compress.ParseAlgorithm(text)
		if err != nil {
			return fmt.Errorf("params %d in the header: %w", i, err)
		}
		if err := d.useParams(i, p, text); err != nil {
			return fmt.Errorf("params %d in the header: %w", i, err)
		}
		if !found && text == current.String() {
			found = true
			d.params.Store(uint32(i))
		}
	}
	if found {
		return nil
	}
	return d.addParams(i, current)
}

// useParams gives params, which the header has as text, their number.
func (d *disk) useParams(i int, p compress.Params, text string) error {
	id, err := d.codecs.Add(p)
	if err != nil {
		return fmt.Errorf("set up %s: %w", p, err)
	}
	if int(id) != i {
		return fmt.Errorf("set up %s: it is number %d, not %d: %w", p, id, i, ErrCorrupt)
	}
	d.tags[i] = paramsSum([]byte(text))
	return nil
}

func paramsSum(text []byte) uint32 { return crc32.Checksum(text, crc32.MakeTable(crc32.Castagnoli)) }

func (d *disk) addParams(i int, p compress.Params) error {
	if i == maxParams {
		return fmt.Errorf("the device has %d sets of compression parameters already: %w", maxParams, ErrNoSpace)
	}
	text := p.String()
	if len(text) > paramsRow-paramsText {
		return fmt.Errorf("compression parameters %q: %w", text, ErrTooBig)
	}
	if err := d.useParams(i, p, text); err != nil {
		return err
	}
	row := d.paramsRow(i)
	copy(row[paramsText:], text)
	binary.LittleEndian.PutUint32(row[4:], paramsSum([]byte(text)))
	invariants.CrashPoint("life.params")
	binary.LittleEndian.PutUint32(row, uint32(len(text)))
	d.params.Store(uint32(i))
	return nil
}

// seed is what the CRC of a slot's object starts from. It ties the bytes to all
// that is needed to read them: slot, state, size, and which codec.
func (d *disk) seed(slot uint64, w word) uint32 {
	if w.state() == stored {
		return w.seed(slot) ^ d.tags[w.params()]
	}
	return w.seed(slot)
}
