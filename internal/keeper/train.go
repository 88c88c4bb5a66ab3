package keeper

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/zramfs/zramfs/compress"
)

const (
	trainPages = 1024
	trainTries = 64 * trainPages // most of a disk may be empty
)

// Trained is a dictionary that was made.
type Trained struct {
	Pages int `json:"pages"` // that it was learned from
	Bytes int `json:"bytes"`
}

// Train makes a dictionary for zstd from pages of a disk, drawn at random, and
// writes it to file, for its owner alone: it holds parts of them. In this
// process: it takes memory that the daemon must not.
func Train(path, file string, id int) (Trained, error) {
	m, err := Find(path)
	if err != nil {
		return Trained{}, err
	}
	if err := refuseNull(m.Point, "train"); err != nil {
		return Trained{}, err
	}
	pages, err := samplePages(diskPath(m.Point, id))
	switch {
	case errors.Is(err, fs.ErrPermission):
		return Trained{}, &Error{CodeNotPermitted, "train reads the disk, which is for the owner of the mount", err}
	case err != nil:
		return Trained{}, fmt.Errorf("train: %w", err)
	}
	dict, err := compress.Train(pages)
	if err != nil {
		return Trained{}, &Error{CodeUsage, "train", err}
	}
	if err := os.WriteFile(file, dict, 0o600); err != nil {
		return Trained{}, fmt.Errorf("train: %w", err)
	}
	return Trained{len(pages), len(dict)}, nil
}

// samplePages reads pages of the disk that are not of one word.
func samplePages(disk string) (pages [][]byte, err error) {
	fd, err := unix.Open(disk, unix.O_RDONLY|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: disk, Err: err}
	}
	defer unix.Close(fd)
	size, err := unix.Seek(fd, 0, unix.SEEK_END)
	if err != nil {
		return nil, &fs.PathError{Op: "seek", Path: disk, Err: err}
	}
	// One page, where direct I/O wants it.
	page, err := unix.Mmap(-1, 0, pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Munmap(page) }() // ours, and whole
	total := size / pageSize
	seen := make(map[int64]bool)
	for range min(trainTries, 8*total) {
		n := rand.Int64N(total)
		if seen[n] {
			continue
		}
		seen[n] = true
		if got, err := unix.Pread(fd, page, n*pageSize); err != nil || got != pageSize {
			return nil, fmt.Errorf("page %d: %d bytes: %w", n, got, err)
		}
		if oneWord(page) {
			continue
		}
		if pages = append(pages, append([]byte(nil), page...)); len(pages) == trainPages {
			break
		}
	}
	return pages, nil
}

func oneWord(page []byte) bool {
	words := unsafe.Slice((*uint64)(unsafe.Pointer(unsafe.SliceData(page))), len(page)/8)
	for _, w := range words {
		if w != words[0] {
			return false
		}
	}
	return true
}
