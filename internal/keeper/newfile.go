package keeper

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// wholeFile is a file that gets its name when it is complete: until then it has
// none, or where the file system cannot do that, one that is taken away again. It
// is for its owner's eyes.
type wholeFile struct {
	*os.File
	path string
	temp string // "": it has no name yet
	kept bool
}

// newFile begins a file that is not there yet.
func newFile(path string) (*wholeFile, error) {
	switch _, err := os.Lstat(path); {
	case err == nil:
		return nil, Errorf(CodeUsage, "%s exists already: give another name, or remove it", path)
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	dir := filepath.Dir(path)
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err == nil {
		return &wholeFile{File: os.NewFile(uintptr(fd), path), path: path}, nil
	}
	if err != unix.EOPNOTSUPP && err != unix.EISDIR && err != unix.EINVAL {
		return nil, &fs.PathError{Op: "create a file in", Path: dir, Err: err}
	}
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*.part") // 0600
	if err != nil {
		return nil, err
	}
	return &wholeFile{File: f, path: path, temp: f.Name()}, nil
}

// keep gives a synced file its name.
func (f *wholeFile) keep() error {
	var err error
	if f.temp != "" {
		err = unix.Renameat2(unix.AT_FDCWD, f.temp, unix.AT_FDCWD, f.path, unix.RENAME_NOREPLACE)
		if err == unix.EINVAL || err == unix.ENOSYS { // where only links are not replaced
			if err = os.Link(f.temp, f.path); err == nil {
				err = os.Remove(f.temp)
			}
		}
	} else {
		err = unix.Linkat(unix.AT_FDCWD, "/proc/self/fd/"+strconv.Itoa(int(f.Fd())), unix.AT_FDCWD, f.path, unix.AT_SYMLINK_FOLLOW)
	}
	if err != nil {
		return fmt.Errorf("give %s its name: %w", f.path, err)
	}
	f.kept = true
	dir, err := os.Open(filepath.Dir(f.path))
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := dir.Sync(); err != nil && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("sync %s: %w", dir.Name(), err)
	}
	return nil
}

// drop closes the file, and takes it away if it was not kept.
func (f *wholeFile) drop() {
	_ = f.Close() // what is kept is synced
	if f.temp != "" && !f.kept {
		_ = os.Remove(f.temp)
	}
}
