package keeper

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/zramfs/zramfs/internal/image"
)

// imageDisk is a device that is saved or restored, with its disk held open, so
// that nobody takes it away.
type imageDisk struct {
	name  string
	disk  *os.File
	image *os.File
	paths []string // of the disk and its segments
}

// imageRead is how much of a disk is asked for at once: the worker gives less
// where it has less room.
const imageRead = 64 << 10

// openImageDisk opens a device of a mount.
func openImageDisk(path string, id, flags int) (*imageDisk, error) {
	m, err := Find(path)
	if err != nil {
		return nil, err
	}
	ids, err := deviceIDs(m.Point)
	if err != nil {
		return nil, err
	}
	if !slices.Contains(ids, id) {
		return nil, Errorf(CodeNoAttribute, "%s has no device zram%d", m.Point, id)
	}
	if err := refuseNull(m.Point, "saving and restoring"); err != nil {
		return nil, err
	}
	d := &imageDisk{name: "zram" + strconv.Itoa(id), paths: []string{diskPath(m.Point, id)}}
	segments, _ := filepath.Glob(diskPath(m.Point, id) + ".*")
	d.paths = append(d.paths, segments...)
	if d.disk, err = os.OpenFile(d.paths[0], flags|unix.O_CLOEXEC, 0); err == nil {
		d.image, err = os.Open(filepath.Join(m.Point, blockDir, d.name, "zramfs/image"))
	}
	if err != nil {
		d.close()
	}
	switch {
	case errors.Is(err, fs.ErrPermission):
		return nil, &Error{CodeNotPermitted, "saving and restoring is for the owner of the mount", err}
	case errors.Is(err, fs.ErrNotExist):
		return nil, &Error{CodeNoAttribute, "the program that serves " + m.Point + " cannot save: zramfs upgrade replaces it", err}
	}
	return d, err
}

func (d *imageDisk) close() {
	for _, f := range []*os.File{d.disk, d.image} {
		if f != nil {
			_ = f.Close() // nothing was written through it that is not synced
		}
	}
}

// info gives what the worker tells of the disk.
func (d *imageDisk) info() (map[string]int64, error) {
	b := make([]byte, 512)
	n, err := d.image.ReadAt(b, image.InfoAt)
	if n == 0 {
		if errors.Is(err, unix.EINVAL) {
			return nil, Errorf(CodeUsage, "%s has no size yet: set its disksize first", d.name)
		}
		return nil, fmt.Errorf("ask for the size of %s: %w", d.name, err)
	}
	return pairs(string(b[:n])), nil
}
