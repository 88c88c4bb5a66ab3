// Package shm makes regions of shared memory that outlive the process that
// fills them: unlinked files, mapped, reserved whole and committed by the page.
//
// A region's pages are void (a hole: reading one through the mapping would
// allocate it), or committed. Populate commits, Punch makes void, Data tells
// which is which after a restart. Nothing here locks: calls on disjoint ranges
// of one region may run at the same time; Close may not overlap with anything.
//
// It never knows what lies in a region, and never starts a goroutine.
package shm

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// PageSize is the unit of commitment in bytes. Machines with other pages are
// refused at the start of the program.
const PageSize = 4096

// Source is where regions are made: a tmpfs of our own that is mounted nowhere
// and never swapped, or memfds.
type Source struct {
	dir *os.File // immutable; the tmpfs's mount, nil: memfds
}

// OpenSource prefers a noswap tmpfs (Linux >= 6.4 and CAP_SYS_ADMIN) and falls
// back to memfds. It never fails; ask NoSwap which it is.
func OpenSource() *Source {
	dir, err := mountNoSwap()
	if err != nil {
		return &Source{}
	}
	return &Source{dir: dir}
}

// AdoptSource takes over a tmpfs mount inherited from another process; nil
// means memfds.
func AdoptSource(f *os.File) *Source { return &Source{dir: f} }

// File is the tmpfs's mount, to hand to another process; nil for memfds.
func (s *Source) File() *os.File { return s.dir }

// NoSwap says whether the kernel never swaps out pages of regions made here,
// whoever has them locked or mapped.
func (s *Source) NoSwap() bool { return s.dir != nil }

// Close gives up the mount. Regions that were made stay.
func (s *Source) Close() error {
	if s.dir == nil {
		return nil
	}
	if err := s.dir.Close(); err != nil {
		return fmt.Errorf("shm: close source: %w", err)
	}
	return nil
}

// Create makes a region of size bytes, all void. size is a positive multiple
// of PageSize. The name is for messages and /proc; it need not be unique.
func (s *Source) Create(name string, size int64) (*Region, error) {
	if size <= 0 || size%PageSize != 0 {
		return nil, fmt.Errorf("shm: create %s: size %d is not a positive multiple of %d: %w",
			name, size, PageSize, unix.EINVAL)
	}
	fd, err := s.open(name)
	if err != nil {
		return nil, fmt.Errorf("shm: create %s: %w", name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	if err := unix.Ftruncate(fd, size); err != nil {
		return nil, errors.Join(fmt.Errorf("shm: create %s: set size %d: %w", name, size, err), f.Close())
	}
	r, err := Adopt(name, f)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return r, nil
}

// open makes an empty file without a name, mode 0600.
func (s *Source) open(name string) (int, error) {
	if s.dir == nil {
		fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_NOEXEC_SEAL)
		if errors.Is(err, unix.EINVAL) { // Linux < 6.3 knows no MFD_NOEXEC_SEAL
			fd, err = unix.MemfdCreate(name, unix.MFD_CLOEXEC)
		}
		if err != nil {
			return -1, fmt.Errorf("memfd_create: %w", err)
		}
		if err := unix.Fchmod(fd, 0o600); err != nil {
			return -1, errors.Join(fmt.Errorf("fchmod: %w", err), unix.Close(fd))
		}
		return fd, nil
	}
	// O_EXCL: no one can link the file into a directory later.
	const flags = unix.O_TMPFILE | unix.O_EXCL | unix.O_RDWR | unix.O_CLOEXEC
	fd, err := unix.Openat(int(s.dir.Fd()), ".", flags, 0o600)
	if err != nil {
		return -1, fmt.Errorf("open in private tmpfs: %w", err)
	}
	return fd, nil
}

// mountNoSwap makes a tmpfs without a size limit that no path leads to. It is
// gone when the last descriptor and mapping is.
func mountNoSwap() (*os.File, error) {
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("shm: fsopen: %w", err)
	}
	defer func() { _ = unix.Close(fs) }()
	if err := unix.FsconfigSetFlag(fs, "noswap"); err != nil {
		return nil, fmt.Errorf("shm: tmpfs noswap: %w", err)
	}
	for _, o := range [][2]string{{"size", "0"}, {"nr_inodes", "0"}, {"mode", "0700"}} {
		if err := unix.FsconfigSetString(fs, o[0], o[1]); err != nil {
			return nil, fmt.Errorf("shm: tmpfs %s=%s: %w", o[0], o[1], err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return nil, fmt.Errorf("shm: create tmpfs: %w", err)
	}
	const attrs = unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, attrs)
	if err != nil {
		return nil, fmt.Errorf("shm: fsmount: %w", err)
	}
	return os.NewFile(uintptr(fd), "zramfs-noswap"), nil
}
