package keeper

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zramfs/zramfs/compress"
	"github.com/zramfs/zramfs/internal/host"
	"github.com/zramfs/zramfs/internal/image"
	"github.com/zramfs/zramfs/stable"
)

// SaveOptions say how to save a disk.
type SaveOptions struct {
	Device int
	Live   bool // although it may be written meanwhile
	// Progress is told now and then how many pages of how many are done; nil:
	// nobody wants to know.
	Progress func(done, total int64)
}

// Saved is what a save put into a file, or a restore out of one.
type Saved struct {
	Device     string `json:"device"`
	Size       int64  `json:"size"`  // bytes of the disk that was saved
	Pages      int64  `json:"pages"` // that hold something
	Same       int64  `json:"same"`
	Compressed int64  `json:"compressed"`
	Raw        int64  `json:"raw"`
	Lost       int64  `json:"lost"`       // that could not be read when they were saved
	FileBytes  int64  `json:"file_bytes"` // of the file
	Live       bool   `json:"live"`       // saved while it was written
	Time       int64  `json:"saved_at"`   // Unix seconds
}

// count counts a record.
func (s *Saved) count(k image.Kind) {
	switch k {
	case image.Same:
		s.Same++
	case image.Compressed:
		s.Compressed++
	case image.Raw:
		s.Raw++
	case image.Lost:
		s.Lost++
	default:
		return
	}
	s.Pages++
}

// Save writes what a disk holds into a new file, which is there when all of it
// is, and not before. A disk that could be written meanwhile is refused, and so is
// one that was, unless Live says that each page may be of another time.
func Save(ctx context.Context, path, file string, o SaveOptions) (Saved, error) {
	d, err := openImageDisk(path, o.Device, os.O_RDONLY)
	if err != nil {
		return Saved{}, err
	}
	defer d.close()
	if !o.Live {
		users, err := host.Users(d.paths, true)
		if err != nil {
			return Saved{}, err
		}
		if len(users) > 0 {
			return Saved{}, Errorf(CodeBusy, "%s can be written while it is saved: %s; end that, or use --live, which saves each page "+
				"as it is at some time meanwhile", d.name, strings.Join(users, "; "))
		}
	}
	out, err := newFile(file)
	if err != nil {
		return Saved{}, err
	}
	defer out.drop()
	s, err := d.save(ctx, out.File, o)
	if err == nil {
		err = out.keep()
	}
	if err != nil {
		return Saved{}, fmt.Errorf("save %s: %w", d.name, err)
	}
	return s, nil
}

// save writes the image of the disk.
func (d *imageDisk) save(ctx context.Context, out *os.File, o SaveOptions) (Saved, error) {
	before, err := d.info()
	if err != nil {
		return Saved{}, err
	}
	s := Saved{Device: d.name, Size: before["slots"] * image.PageSize, Live: o.Live, Time: time.Now().Unix()}
	h := image.Header{Pages: uint64(before["slots"]), Time: s.Time}
	if o.Live {
		h.Flags |= image.Live
	}
	w, err := image.NewWriter(out, h)
	if err != nil {
		return s, err
	}
	if err := d.savePages(ctx, w, h.Pages, func(k image.Kind) {
		s.count(k)
		if o.Progress != nil && s.Pages%1024 == 0 {
			o.Progress(s.Pages, before["pages"])
		}
	}); err != nil {
		return s, err
	}
	after, err := d.info()
	if err != nil {
		return s, err
	}
	if n := after["changes"] - before["changes"]; !o.Live && (n != 0 || after["slots"] != before["slots"]) {
		return s, Errorf(CodeBusy, "%d pages were written while it was saved, so nothing was kept: try again when nobody writes, or use --live", n)
	}
	err = errors.Join(w.Close(), out.Sync())
	s.FileBytes = w.Bytes()
	return s, err
}

// chunk is what one read of the image gave.
type chunk struct {
	from uint64 // page
	b    []byte // whole records, the last a Next
	err  error
}

// chunks reads the image of so many pages, a little ahead of who takes them, and
// ends with an error or when ctx does.
func (d *imageDisk) chunks(ctx context.Context, pages uint64) <-chan chunk {
	const ahead = 4
	out, buf := make(chan chunk, ahead), make([]byte, (ahead+2)*imageRead)
	go func() {
		defer close(out)
		for i, from := 0, uint64(0); from < pages && ctx.Err() == nil; i++ {
			b := buf[i%(ahead+2)*imageRead:][:imageRead] // one is at who takes them, one is filled, ahead are in out
			n, err := unix.Pread(int(d.image.Fd()), b, int64(from*image.PageSize))
			if err == unix.EINTR {
				i--
				continue
			}
			c := chunk{from: from, b: b[:max(n, 0)], err: err}
			if err == nil {
				from, c.err = nextPage(c)
			}
			select {
			case out <- c:
			case <-ctx.Done():
			}
			if c.err != nil {
				return
			}
		}
	}()
	return out
}

// nextPage says with which page to go on.
func nextPage(c chunk) (uint64, error) {
	if n := len(c.b) - image.HeadSize; n >= 0 {
		if r, _, err := image.Parse(c.b[n:]); err == nil && r.Kind == image.Next && r.Page > c.from {
			return r.Page, nil
		}
	}
	return 0, fmt.Errorf("%d bytes that lead nowhere: %w", len(c.b), image.ErrDamaged)
}

// savePages copies the records of the disk into a file.
func (d *imageDisk) savePages(ctx context.Context, w *image.Writer, pages uint64, done func(image.Kind)) error {
	reading, stop := context.WithCancel(ctx)
	defer stop()
	var known [256]bool
	away := &packer{plain: make([]byte, image.PageSize)}
	for c := range d.chunks(reading, pages) {
		for rest := c.b; len(rest) > 0 && c.err == nil && ctx.Err() == nil; {
			var r image.Record
			if r, rest, c.err = image.Parse(rest); c.err != nil {
				break
			}
			if r.Kind == image.Next || r.Page >= pages { // it grew meanwhile
				continue
			}
			if r.Kind == image.Away {
				var err error
				if r, err = d.fetch(away, r.Page); err != nil {
					return err
				}
			}
			if r.Kind == image.Compressed && !known[r.Number] {
				known[r.Number] = true
				if err := d.saveParams(w, r.Number); err != nil {
					return err
				}
			}
			if err := w.Put(r); err != nil {
				return err
			}
			done(r.Kind)
		}
		if c.err != nil {
			return fmt.Errorf("what the worker gives from page %d on: %w", c.from, c.err)
		}
	}
	if err := ctx.Err(); err != nil {
		return &Error{CodeFailure, "interrupted; no file was left", err}
	}
	return nil
}

// packer makes records of pages that do not lie in memory as objects.
type packer struct {
	set   *compress.Set
	plain []byte // what was read
}

// fetch reads a page through the disk, one that lies on the backing device, and
// compresses it with the disk's first parameters.
func (d *imageDisk) fetch(p *packer, number uint64) (image.Record, error) {
	r := image.Record{Kind: image.Lost, Page: number}
	if n, err := d.disk.ReadAt(p.plain, int64(number*image.PageSize)); err != nil || n != len(p.plain) {
		return r, nil
	}
	r.Kind, r.Payload = image.Raw, p.plain
	if p.set == nil {
		payload, err := d.params(0)
		if err != nil {
			return r, err
		}
		c := newDecoder()
		if err := c.params(image.Record{Kind: image.Params, Payload: payload}); err != nil {
			return r, err
		}
		p.set = c.set
	}
	st := p.set.Stream(0)
	st.Lock()
	defer st.Unlock()
	switch b, err := st.Compress(0, stable.Borrow(p.plain, nil)); {
	case errors.Is(err, compress.ErrIncompressible) || err == nil && len(b) >= image.PageSize:
		return r, nil
	case err != nil:
		return r, fmt.Errorf("compress page %d: %w", number, err)
	default:
		r.Kind, r.Payload = image.Compressed, b
	}
	return r, nil
}

// saveParams writes the compression parameters that pages need.
func (d *imageDisk) saveParams(w *image.Writer, number uint8) error {
	payload, err := d.params(number)
	if err != nil {
		return err
	}
	return w.Put(image.Record{Kind: image.Params, Number: number, Payload: payload})
}

// params asks for compression parameters.
func (d *imageDisk) params(number uint8) (payload []byte, err error) {
	for buf := make([]byte, imageRead); ; {
		n, err := unix.Pread(int(d.image.Fd()), buf, image.ParamsAt+int64(number)<<32+int64(len(payload)))
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read compression parameters %d: %w", number, err)
		}
		if n == 0 {
			break
		}
		payload = append(payload, buf[:n]...)
	}
	if len(payload) < 4 || len(payload) > image.MaxPayload {
		return nil, fmt.Errorf("compression parameters %d: %d bytes: %w", number, len(payload), image.ErrDamaged)
	}
	return payload, nil
}

// Text tells people what was saved.
func (s Saved) Text(file string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %d pages in %s: %d same-filled, %d compressed, %d raw; %s\n",
		s.Device, s.Pages, file, s.Same, s.Compressed, s.Raw, HumanSize(s.FileBytes))
	if s.Lost > 0 {
		fmt.Fprintf(&b, "%s: damage: pages that cannot be read: %d; zramfs check says which\n", s.Device, s.Lost)
	}
	return b.String()
}

// Whole is the error of an image that lacks pages, nil if it does not.
func (s Saved) Whole() error {
	if s.Lost == 0 {
		return nil
	}
	return Errorf(CodeDamaged, "%d pages of %s could not be read when it was saved", s.Lost, s.Device)
}
