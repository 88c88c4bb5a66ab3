package blockdev

import (
	"encoding/binary"
	"fmt"

	"github.com/zramfs/zramfs/compress"
	"github.com/zramfs/zramfs/internal/invariants"
)

// The table of params lies in the header: 16 rows of paramsRow bytes, each a
// length and the text that compress parses. A row is written before the first
// word that names it and never changes.
const (
	maxParams = 16
	paramsRow = 256
)

func (d *disk) paramsRow(i int) []byte {
	return d.region.Bytes(int64(paramsAt+i*paramsRow), paramsRow)
}

// openParams adds the params that the header names, in their order, and then
// the ones that new objects are to get, if they are not among them.
func (d *disk) openParams(current compress.Params) error {
	i := 0
	for ; i < maxParams; i++ {
		row := d.paramsRow(i)
		n := binary.LittleEndian.Uint32(row)
		if n == 0 {
			break
		}
		if n > paramsRow-4 {
			return fmt.Errorf("params %d in the header: length %d: %w", i, n, ErrCorrupt)
		}
		text := string(row[4 : 4+n])
		p, err := compress.ParseAlgorithm(text)
		if err != nil {
			return fmt.Errorf("params %d in the header: %w", i, err)
		}
		if _, err := d.codecs.Add(p); err != nil {
			return fmt.Errorf("params %d in the header: %w", i, err)
		}
		if text == current.String() {
			d.params.Store(uint32(i))
			return nil
		}
	}
	return d.addParams(i, current)
}

func (d *disk) addParams(i int, p compress.Params) error {
	if i == maxParams {
		return fmt.Errorf("the device has %d sets of compression parameters already: %w", maxParams, ErrNoSpace)
	}
	text := p.String()
	if len(text) > paramsRow-4 {
		return fmt.Errorf("compression parameters %q: %w", text, ErrTooBig)
	}
	id, err := d.codecs.Add(p)
	if err != nil {
		return fmt.Errorf("set up %s: %w", text, err)
	}
	row := d.paramsRow(i)
	copy(row[4:], text)
	invariants.CrashPoint("life.params")
	binary.LittleEndian.PutUint32(row, uint32(len(text)))
	d.params.Store(uint32(id))
	return nil
}
