package keeper

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/zramfs/zramfs/compress"
	"github.com/zramfs/zramfs/internal/host"
	"github.com/zramfs/zramfs/internal/image"
)

// RestoreOptions say how to restore a disk.
type RestoreOptions struct {
	Device    int
	Overwrite bool // a disk that holds something
	DryRun    bool // look at everything and write nothing
	// Progress is told now and then how many bytes of the file of how many are
	// done; nil: nobody wants to know.
	Progress func(done, total int64)
}

// Restore writes a saved disk to the disk of a device, through whatever codec
// that has. The whole file is verified before the first page is written; and what
// ends in between leaves an empty disk.
func Restore(ctx context.Context, path, file string, o RestoreOptions) (Saved, error) {
	in, err := os.Open(file)
	if err != nil {
		return Saved{}, err
	}
	defer in.Close()
	st, err := in.Stat()
	if err != nil {
		return Saved{}, err
	}
	if !st.Mode().IsRegular() {
		return Saved{}, Errorf(CodeUsage, "%s is no regular file: an image is read twice, first to verify it", file)
	}
	p := &restoring{ctx: ctx, in: in, size: st.Size(), tell: o.Progress}
	s, err := p.verify()
	if err != nil {
		return Saved{}, imageError(file, err)
	}
	d, err := openRestored(path, o, s)
	if err != nil {
		return Saved{}, err
	}
	defer d.close()
	s.Device = d.name
	if o.DryRun {
		return s, nil
	}
	if err := p.write(d); err != nil {
		// What is there is neither the old disk nor the new one.
		return Saved{}, errors.Join(imageError("restore "+d.name, err), d.empty())
	}
	return s, nil
}

// imageError gives what is wrong with an image a code.
func imageError(what string, err error) error {
	switch {
	case errors.Is(err, image.ErrDamaged):
		return &Error{CodeDamaged, what, err}
	case errors.Is(err, image.ErrForeign), errors.Is(err, image.ErrVersion):
		return &Error{CodeUsage, what, err}
	}
	return fmt.Errorf("%s: %w", what, err)
}

// openRestored opens the disk that is to be written, if it may be.
func openRestored(path string, o RestoreOptions, s Saved) (*imageDisk, error) {
	if sized, err := sizeRestored(path, o, s.Size); err != nil || !sized {
		return &imageDisk{name: "zram" + strconv.Itoa(o.Device)}, err
	}
	d, err := openImageDisk(path, o.Device, os.O_RDWR)
	if err != nil {
		return nil, err
	}
	info, err := d.info()
	if err == nil {
		err = d.mayRestore(info, o, s)
	}
	if err != nil {
		d.close()
		return nil, err
	}
	return d, nil
}

// sizeRestored gives a device that has no size yet that of the image, but in a
// dry run: then it has none afterwards.
func sizeRestored(path string, o RestoreOptions, size int64) (sized bool, err error) {
	text, err := Get(path, "disksize", o.Device)
	if err != nil || strings.TrimSpace(text) != "0" {
		return true, err
	}
	if o.DryRun {
		return false, nil
	}
	return true, Set(path, "disksize", strconv.FormatInt(size, 10), o.Device)
}

// mayRestore says whether the disk may be written.
func (d *imageDisk) mayRestore(info map[string]int64, o RestoreOptions, s Saved) error {
	users, err := host.Users(d.paths, false)
	if err != nil {
		return err
	}
	size := info["slots"] * image.PageSize
	switch {
	case len(users) > 0:
		return Errorf(CodeBusy, "%s is in use: %s; end that first", d.name, strings.Join(users, "; "))
	case size < s.Size:
		return Errorf(CodeUsage, "%s is smaller than the disk that was saved: %d bytes, need %d; zramfs resize %s %d makes it larger",
			d.name, size, s.Size, filepath.Dir(filepath.Dir(d.paths[0])), s.Size)
	case info["pages"] != 0 && !o.Overwrite:
		return Errorf(CodeBusy, "%s holds %d pages, which would be lost: reset it, or use --overwrite", d.name, info["pages"])
	}
	return nil
}

// empty takes everything off the disk.
func (d *imageDisk) empty() error {
	st, err := d.disk.Stat()
	if err == nil {
		err = unix.Fallocate(int(d.disk.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, st.Size())
	}
	if err != nil {
		return fmt.Errorf("empty %s: %w", d.name, err)
	}
	return nil
}

// restoring reads the file twice.
type restoring struct {
	ctx  context.Context
	in   *os.File
	size int64
	tell func(done, total int64)

	records int64
	pass    int64
}

// read hands out every record of the file, which is verified when it returns nil.
func (p *restoring) read(each func(image.Record) error) (image.Header, error) {
	if _, err := p.in.Seek(0, io.SeekStart); err != nil {
		return image.Header{}, err
	}
	defer func() { p.pass++ }()
	r, err := image.NewReader(p.in)
	if err != nil {
		return image.Header{}, err
	}
	for {
		rec, err := r.Next()
		if err == io.EOF {
			return r.Header, nil
		}
		if err == nil {
			err = each(rec)
		}
		if err != nil {
			return r.Header, err
		}
		if p.records++; p.records%1024 == 0 {
			if err := p.ctx.Err(); err != nil {
				return r.Header, &Error{CodeFailure, "interrupted", err}
			}
			if p.tell != nil {
				p.tell(p.pass*p.size+r.Offset(), 2*p.size)
			}
		}
	}
}

// decoder is what turns records into pages.
type decoder struct {
	set     *compress.Set
	numbers map[uint8]uint8 // of an image to those of set
}

// params takes up compression parameters.
func (c *decoder) params(r image.Record) error {
	text, dict := r.Params()
	p, err := compress.ParseFormat(text)
	if err != nil {
		return fmt.Errorf("%w: %w", image.ErrVersion, err)
	}
	if len(dict) > 0 {
		p.Dict = append([]byte(nil), dict...)
	}
	c.numbers[r.Number], err = c.set.Add(p)
	return err
}

// page makes the page of a record.
func (c *decoder) page(page []byte, r image.Record) error {
	switch r.Kind {
	case image.Same:
		for i := 0; i < len(page); i += 8 {
			binary.LittleEndian.PutUint64(page[i:], r.Element())
		}
	case image.Raw:
		copy(page, r.Payload)
	case image.Compressed:
		st := c.set.Stream(0)
		st.Lock()
		defer st.Unlock()
		if err := st.Decompress(c.numbers[r.Number], page, r.Payload); err != nil {
			return fmt.Errorf("%w: page %d: %w", image.ErrDamaged, r.Page, err)
		}
	}
	return nil
}

// verify reads the file without writing anything, and decompresses every page.
func (p *restoring) verify() (s Saved, err error) {
	c, page := newDecoder(), make([]byte, image.PageSize)
	h, err := p.read(func(r image.Record) error {
		s.count(r.Kind)
		if r.Kind == image.Params {
			return c.params(r)
		}
		return c.page(page, r)
	})
	s.Size, s.Live, s.Time, s.FileBytes = int64(h.Pages*image.PageSize), h.Flags&image.Live != 0, h.Time, p.size
	return s, err
}

func newDecoder() *decoder {
	return &decoder{set: compress.NewSet(1), numbers: make(map[uint8]uint8)}
}

// restoreBatch is how much is written at once, of pages that lie side by side.
const restoreBatch = 1 << 20

// write empties the disk and writes the pages.
func (p *restoring) write(d *imageDisk) error {
	if err := d.empty(); err != nil {
		return err
	}
	c, buf, at := newDecoder(), make([]byte, 0, restoreBatch), int64(0)
	flush := func() error {
		_, err := d.disk.WriteAt(buf, at)
		buf = buf[:0]
		return err
	}
	_, err := p.read(func(r image.Record) error {
		switch r.Kind {
		case image.Params:
			return c.params(r)
		case image.Lost:
			return nil
		}
		off := int64(r.Page * image.PageSize)
		if len(buf) == restoreBatch || len(buf) > 0 && at+int64(len(buf)) != off {
			if err := flush(); err != nil {
				return err
			}
		}
		if len(buf) == 0 {
			at = off
		}
		buf = buf[:len(buf)+image.PageSize]
		return c.page(buf[len(buf)-image.PageSize:], r)
	})
	if err == nil {
		err = flush()
	}
	return errors.Join(err, d.disk.Sync())
}
