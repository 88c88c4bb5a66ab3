package keeper

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/zramfs/zramfs/blockdev"
	"github.com/zramfs/zramfs/internal/backing"
)

// BackingConfig is where pages are written back to.
type BackingConfig struct {
	Path  string `json:"path,omitempty"`  // block device or file, absolute; "": none
	Size  int64  `json:"size,omitempty"`  // of a file to be made, bytes; 0: it is there
	Plain bool   `json:"plain,omitempty"` // without encryption
}

// check looks for what can be known to be wrong, and makes the path absolute.
func (c *BackingConfig) check() error {
	switch {
	case c.Path == "" && c.Size != 0:
		return Errorf(CodeUsage, "a backing size without a backing device: name a file with --backing")
	case c.Path == "" && c.Plain:
		return Errorf(CodeUsage, "plain writeback without a backing device: name one with --backing")
	case c.Path == "":
		return nil
	case strings.Contains(c.Path, "\n"):
		return Errorf(CodeUsage, "backing device %q: expected a path of one line", c.Path)
	}
	abs, err := filepath.Abs(c.Path)
	if err != nil {
		return &Error{CodeUsage, "backing device " + c.Path, err}
	}
	c.Path = abs
	return nil
}

// store gives a device its backing, before it has a size. Writeback of compressed
// bytes is what a mount is set to: less is written, and less of the device taken.
func (c *BackingConfig) store(set *blockdev.Set, id int) error {
	if c.Path == "" {
		return nil
	}
	path, plain := c.Path, "0"
	if c.Size != 0 {
		path = fmt.Sprintf("%s size=%d", path, c.Size)
	}
	if c.Plain {
		plain = "1"
	}
	for _, a := range [][2]string{{"backing_dev", path}, {"compressed_writeback", "1"}, {"writeback_plain", plain}} {
		if err := storeAttribute(set, id, a[0], a[1]); err != nil {
			return err
		}
	}
	return nil
}

// The keeper holds backing devices as it holds regions, under names that begin
// with backingPrefix. It does not map them.
const backingPrefix = "backing/"

func isBacking(name string) bool { return strings.HasPrefix(name, backingPrefix) }

// backingBusy is how long a device may be in use by who has just let it go: it
// is free when all processes have closed it.
const backingBusy = time.Second

// OpenBacking opens a device and hands it to the keeper, which holds it from
// then on.
func (w *worker) OpenBacking(device, path string, create int64) (blockdev.Backing, error) {
	if !filepath.IsAbs(path) {
		return nil, fmt.Errorf("%s: need a path from the root, since this process works elsewhere: %w", path, blockdev.ErrInvalid)
	}
	f, err := openBacking(path, backing.Options{Create: create, Avoid: w.task.Config.Mountpoint})
	if err != nil {
		return nil, backingError(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	name := backingPrefix + device
	if err := w.control.send(message{Kind: msgRegion, Name: name}, f.File()); err != nil && !hungUp(err) {
		return nil, errors.Join(err, f.Close())
	}
	w.putBacking(name, f.File()) // and from here a new keeper gets it
	return f, nil
}

func openBacking(path string, o backing.Options) (f *backing.File, err error) {
	for end := time.Now().Add(backingBusy); ; time.Sleep(firstPause) {
		if f, err = backing.Open(path, o); !errors.Is(err, backing.ErrBusy) || time.Now().After(end) {
			return f, err
		}
	}
}

// AdoptBacking takes up what an earlier worker opened.
func (w *worker) AdoptBacking(device string) (blockdev.Backing, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	name := backingPrefix + device
	f := w.backings[name]
	if f == nil {
		return nil, fmt.Errorf("backing device of %s: it was not handed over", device)
	}
	return backing.Adopt(f)
}

// DropBacking gives the space of a file back, and closes the device in all
// processes.
func (w *worker) DropBacking(device string, b blockdev.Backing) {
	f, ok := b.(*backing.File)
	if !ok {
		return
	}
	f.Release()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.loseBacking(backingPrefix + device)
}

// releaseBackings gives back what the files take: nobody can read it any more.
func (w *worker) releaseBackings() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, f := range w.backings {
		if b, err := backing.Adopt(f); err == nil {
			b.Release()
		}
	}
}

// loseBacking has everybody close a device. Caller holds mu.
func (w *worker) loseBacking(name string) {
	w.forgetBacking(name)
	_ = w.control.send(message{Kind: msgDrop, Name: name}) // a new keeper is not given it any more
}

func (w *worker) forgetBacking(name string) {
	if f := w.backings[name]; f != nil {
		delete(w.backings, name)
		f.Close()
	}
}

// putBacking keeps a device, in the place of one of the same name.
func (w *worker) putBacking(name string, f *os.File) {
	if w.backings == nil {
		w.backings = make(map[string]*os.File)
	}
	if old := w.backings[name]; old != nil {
		old.Close()
	}
	w.backings[name] = f
}

// dropUnused lets go of the devices that no disk has taken up: they were about to
// be used, or to be dropped.
func (w *worker) dropUnused(set *blockdev.Set) {
	w.mu.Lock()
	defer w.mu.Unlock()
	used := make(map[string]bool)
	for _, d := range set.Devices() {
		used[backingPrefix+d.Name()] = d.HasBacking()
	}
	for name := range w.backings {
		if !used[name] {
			w.loseBacking(name)
		}
	}
}

// backingError gives what opening a device ran into one of blockdev's kinds.
func backingError(err error) error {
	for _, kind := range []struct{ ours, theirs error }{
		{backing.ErrNotBlock, blockdev.ErrNotBlock}, {backing.ErrSize, blockdev.ErrInvalid},
		{backing.ErrRecursive, blockdev.ErrInvalid}, {backing.ErrBusy, blockdev.ErrBusy},
	} {
		if errors.Is(err, kind.ours) {
			return fmt.Errorf("%w: %w", kind.theirs, err)
		}
	}
	return err
}
