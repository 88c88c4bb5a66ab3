package blockdev

import (
	"encoding/binary"
	"fmt"

	"github.com/zramfs/zramfs/internal/image"
)

// The attribute image hands out what the disk holds, as it lies in memory, to
// who saves it: what each read gives depends on its position alone, so a save
// goes on when the worker is replaced.
func imageAttributes() []Attribute {
	return []Attribute{{
		Dir: DirZramfs, Name: "image", Mode: 0o400,
		Help:   "what the disk holds, as it is stored, for zramfs save; no text",
		ShowAt: showImage,
	}}
}

// imageLeast is the smallest read of records: one page, and what comes next.
const imageLeast = 2*image.HeadSize + PageSize

func showImage(d *Device, b []byte, off int64) (int, error) {
	k, err := d.disked("image")
	if err != nil {
		return 0, err
	}
	defer k.letGo()
	switch {
	case off >= image.InfoAt:
		return from(b, k.imageInfo(), off-image.InfoAt), nil
	case off >= image.ParamsAt:
		id := (off - image.ParamsAt) >> 32
		p, ok := k.codecs.Params(uint8(id))
		if !ok || id >= maxParams {
			return 0, nil
		}
		return from(b, image.AppendParams(nil, p.Format(), p.Dict), off&(1<<32-1)), nil
	case off%PageSize != 0 || len(b) < imageLeast:
		return 0, fmt.Errorf("image: %d bytes from byte %d: need a page's place, and at least %d bytes: %w",
			len(b), off, imageLeast, ErrInvalid)
	}
	return k.imagePages(b, uint64(off/PageSize)), nil
}

// from copies what there is of text at a position.
func from(b, text []byte, off int64) int { return copy(b, text[min(off, int64(len(text))):]) }

// imageInfo tells how large the disk is, how much is in it, and a number that
// moves on with each page that is written or discarded.
func (d *disk) imageInfo() []byte {
	s := sumLanes(d.lanes)
	return fmt.Appendf(nil, "slots %d\npages %d\nchanges %d\n", d.table.slots(), s.pages, s.writes+s.discards)
}

// imagePages fills b with records from a slot on, and how to go on.
func (d *disk) imagePages(b []byte, slot uint64) int {
	out := b[:0:len(b)]
	for slot < d.table.slots() && len(b)-len(out) >= imageLeast {
		most := (len(b) - len(out) - image.HeadSize) / (image.HeadSize + PageSize)
		slot = d.walkSome(slot, most, func(slot uint64, w word) { out = d.appendRecord(out, slot, w) })
	}
	return len(image.Append(out, image.Record{Kind: image.Next, Page: slot}))
}

// appendRecord puts a slot's record behind b: a page that cannot be read is lost,
// and one on the backing device is for the reader to get through the disk. Caller
// holds the slot's lock.
func (d *disk) appendRecord(b []byte, slot uint64, w word) []byte {
	r, element := image.Record{Page: slot, Kind: image.Lost}, [8]byte{}
	switch s := w.state(); {
	case !w.sound(slot):
	case s == same:
		if e, ok := d.table.element(slot, w); ok {
			binary.LittleEndian.PutUint64(element[:], e)
			r.Kind, r.Payload = image.Same, element[:]
		}
	case s == stored:
		row := d.rowOf(w)
		if object, err := d.object(slot, w); err == nil && row != nil {
			r.Kind, r.Number, r.Payload = image.Compressed, row.codec, object
		}
	case s == huge:
		if object, err := d.object(slot, w); err == nil {
			r.Kind, r.Payload = image.Raw, object
		}
	case s == staged:
		if fr, err := d.frameOf(slot, w); err == nil && d.frames.Sound(fr) {
			r.Kind, r.Payload = image.Raw, d.frames.Bytes(fr)
		}
	case s == backed:
		r.Kind = image.Away
	}
	if r.Kind == image.Lost {
		d.bad(slot)
	}
	return image.Append(b, r)
}
