// Package backing is the disk under the RAM disk: a block device, or a file that
// is made if a size is given. I/O goes past the page cache where the file
// system lets it, in whole blocks.
//
// A call waits as long as the device does, which may be for ever; whoever must
// not wait calls from a goroutine of its own. All but Close may run at the same
// time on any number of threads. The package starts no goroutine but in
// Release, and never knows what it stores.
package backing

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// BlockSize is the unit of I/O: offsets, lengths and the addresses of buffers
// are multiples of it.
const BlockSize = 4096

var (
	// ErrNotBlock means that the path names neither a block device nor a file.
	ErrNotBlock = errors.New("backing: neither a block device nor a regular file")
	// ErrSize means that the device is too small, or not of the size asked for.
	ErrSize = errors.New("backing: unusable size")
	// ErrBusy means that somebody else uses the device.
	ErrBusy = errors.New("backing: in use")
	// ErrRecursive means that the device lies on what it is to back.
	ErrRecursive = errors.New("backing: lies on the disk that it is to back")
)

// File is an open backing device.
type File struct {
	file   *os.File // immutable
	size   int64    // immutable; whole blocks
	block  bool     // immutable; a block device
	direct bool     // immutable; past the page cache
}

// Options say what Open accepts.
type Options struct {
	// Create is the size of a file that is made if it is not there, or grown if
	// it is smaller; 0: it must be there.
	Create int64
	// Avoid is a directory that the device must not lie on: the mount itself.
	Avoid string
}

// Open opens a device for itself alone. What it holds is lost sooner or later.
func Open(path string, o Options) (*File, error) {
	if err := avoid(path, o.Avoid); err != nil {
		return nil, err
	}
	flags := unix.O_RDWR | unix.O_CLOEXEC | unix.O_NONBLOCK // who opens a pipe does not wait
	if o.Create > 0 {
		if err := ensure(path, roundUp(o.Create)); err != nil {
			return nil, err
		}
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("backing: %w", err)
	}
	switch mode := info.Mode(); {
	case mode&fs.ModeDevice != 0 && mode&fs.ModeCharDevice == 0:
		flags |= unix.O_EXCL
	case !mode.IsRegular():
		return nil, fmt.Errorf("%s: %w: name one of these", path, ErrNotBlock)
	}
	fd, err := openDirect(path, flags)
	if errors.Is(err, unix.EBUSY) {
		return nil, fmt.Errorf("%s: %w: it is mounted, or another program has it for itself; free it first", path, ErrBusy)
	}
	if err != nil {
		return nil, fmt.Errorf("backing: open %s: %w", path, err)
	}
	file := os.NewFile(uintptr(fd), path)
	f, err := Adopt(file)
	if err == nil {
		err = f.claim(path, o.Avoid)
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return f, nil
}

// openDirect opens past the page cache, if the file system can do that.
func openDirect(path string, flags int) (int, error) {
	fd, err := unix.Open(path, flags|unix.O_DIRECT, 0)
	if errors.Is(err, unix.EINVAL) {
		fd, err = unix.Open(path, flags, 0)
	}
	return fd, err
}

// Adopt takes over a file that Open opened, here or in another process. With
// an error it is still the caller's.
func Adopt(file *os.File) (*File, error) {
	fd := int(file.Fd())
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, fmt.Errorf("backing: stat %s: %w", file.Name(), err)
	}
	f := &File{file: file, size: st.Size, block: st.Mode&unix.S_IFMT == unix.S_IFBLK}
	if f.block {
		size, err := unix.IoctlGetInt(fd, unix.BLKGETSIZE64)
		if err != nil {
			return nil, fmt.Errorf("backing: size of %s: %w", file.Name(), err)
		}
		f.size = int64(size)
		n, err := unix.IoctlGetInt(fd, unix.BLKSSZGET)
		if err != nil {
			return nil, fmt.Errorf("backing: sector size of %s: %w", file.Name(), err)
		}
		if n > BlockSize {
			return nil, fmt.Errorf("%s has sectors of %d bytes, need %d or fewer: %w", file.Name(), n, BlockSize, ErrSize)
		}
	}
	if f.size &^= BlockSize - 1; f.size == 0 {
		return nil, fmt.Errorf("%s is smaller than a block of %d bytes: give a larger one, or a size to make a file: %w",
			file.Name(), BlockSize, ErrSize)
	}
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil {
		return nil, fmt.Errorf("backing: flags of %s: %w", file.Name(), err)
	}
	f.direct = flags&unix.O_DIRECT != 0
	return f, nil
}

// claim takes a file for this mount alone: the lock goes with the open file,
// whoever has its descriptor. A block device was opened exclusively.
func (f *File) claim(path, mount string) error {
	if f.block {
		return f.notOver(path, mount)
	}
	if err := unix.Flock(int(f.file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("%s: %w: another disk uses the file; name another", path, ErrBusy)
	}
	return nil
}

// notOver refuses a loop device over a file of the mount.
func (f *File) notOver(path, mount string) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.file.Fd()), &st); err != nil {
		return fmt.Errorf("backing: stat %s: %w", path, err)
	}
	b, err := os.ReadFile(fmt.Sprintf("/sys/dev/block/%d:%d/loop/backing_file", unix.Major(st.Rdev), unix.Minor(st.Rdev)))
	if err != nil {
		return nil // not a loop device
	}
	return avoid(strings.TrimSpace(string(b)), mount)
}

// avoid refuses a path that leads below dir.
func avoid(path, dir string) error {
	if dir == "" {
		return nil
	}
	within, err := Within(path, dir)
	if err != nil {
		return fmt.Errorf("backing: %w", err)
	}
	if within {
		return fmt.Errorf("%s: %w: name a device that does not", path, ErrRecursive)
	}
	return nil
}

// ensure makes a file of size bytes, or makes one as large. Its blocks come into
// being when they are written.
func ensure(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	if errors.Is(err, unix.EISDIR) {
		return fmt.Errorf("%s: %w: it is a directory; name a file in it", path, ErrNotBlock)
	}
	if err != nil {
		return fmt.Errorf("backing: make %s: %w", path, err)
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return fmt.Errorf("backing: make %s: %w", path, err)
	case !info.Mode().IsRegular():
		return nil // a device has the size it has
	case info.Size() > size:
		return fmt.Errorf("%s has %s bytes already, %d were asked for: remove it, or leave the size out: %w", path,
			strconv.FormatInt(info.Size(), 10), size, ErrSize)
	}
	if err := f.Truncate(size); err != nil {
		return fmt.Errorf("backing: make %s: %w", path, err)
	}
	return nil
}

func roundUp(n int64) int64 { return (n + BlockSize - 1) &^ (BlockSize - 1) }

// Size is the device's length in bytes, whole blocks.
func (f *File) Size() int64 { return f.size }

// Direct says whether I/O goes past the page cache.
func (f *File) Direct() bool { return f.direct }

// File is the descriptor, to hand to another process. It stays this one's, too.
func (f *File) File() *os.File { return f.file }

// ReadAt reads whole blocks.
func (f *File) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.file.ReadAt(p, off)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return n, fmt.Errorf("backing: read: %w", err)
	}
	f.forget(off, len(p))
	return n, nil
}

// WriteAt writes whole blocks.
func (f *File) WriteAt(p []byte, off int64) (int, error) {
	n, err := f.file.WriteAt(p, off)
	if err != nil {
		return n, fmt.Errorf("backing: write: %w", err)
	}
	if !f.direct { // else RAM would hold what was to leave it
		if err := unix.SyncFileRange(int(f.file.Fd()), off, int64(len(p)), syncRange); err != nil {
			return 0, fmt.Errorf("backing: write: %w", err)
		}
		f.forget(off, len(p))
	}
	return n, nil
}

const syncRange = unix.SYNC_FILE_RANGE_WAIT_BEFORE | unix.SYNC_FILE_RANGE_WRITE | unix.SYNC_FILE_RANGE_WAIT_AFTER

// forget takes a range out of the page cache, if it went in.
func (f *File) forget(off int64, n int) {
	if !f.direct {
		_ = unix.Fadvise(int(f.file.Fd()), off, int64(n), unix.FADV_DONTNEED) // it costs memory, no more
	}
}

// Discard tells the device that a range of blocks is not needed: what it reads
// as is not said. An error means that the device cannot do that.
func (f *File) Discard(off, n int64) error {
	for {
		err := unix.Fallocate(int(f.file.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("backing: discard: %w", err)
		}
		return nil
	}
}

// releaseTime is how long Release waits for a file system.
const releaseTime = 2 * time.Second

// Release ends the use of the device, whoever has it open still: another may use
// it, and what a file takes is given back, unless that takes long.
func (f *File) Release() {
	if f.block {
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = f.Discard(0, f.size)                       // a file system may not be able to
		_ = unix.Flock(int(f.file.Fd()), unix.LOCK_UN) // it ends with the last descriptor, too
	}()
	select {
	case <-done:
	case <-time.After(releaseTime):
	}
}

// Close lets the device go. A call that still waits for it goes on.
func (f *File) Close() error {
	if err := f.file.Close(); err != nil {
		return fmt.Errorf("backing: close: %w", err)
	}
	return nil
}
