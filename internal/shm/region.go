package shm

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Region is one shared file, mapped whole from its first to its last byte.
// The mapping stays where it is until Close; slices of it die with it.
type Region struct {
	name string   // immutable
	file *os.File // immutable
	mem  []byte   // immutable until Close; the mapping

	// BeforePopulate is called with each range that is about to be populated,
	// and an error ends that; nil: nothing is called. Set before the region is
	// shared among goroutines.
	BeforePopulate func(off, n int64) error
}

// Adopt maps a file that another process (or Create) made. The region owns the
// file from here on, if there is no error. What it holds is not touched.
func Adopt(name string, f *os.File) (*Region, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, fmt.Errorf("shm: adopt %s: fstat: %w", name, err)
	}
	if st.Size <= 0 || st.Size%PageSize != 0 {
		return nil, fmt.Errorf("shm: adopt %s: size %d is not a positive multiple of %d: %w",
			name, st.Size, PageSize, unix.EINVAL)
	}
	mem, err := unix.Mmap(int(f.Fd()), 0, int(st.Size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("shm: adopt %s: mmap %d bytes: %w", name, st.Size, err)
	}
	// Pages of the disk do not belong in a core dump.
	if err := unix.Madvise(mem, unix.MADV_DONTDUMP); err != nil {
		return nil, errors.Join(fmt.Errorf("shm: adopt %s: madvise: %w", name, err), unix.Munmap(mem))
	}
	return &Region{name: name, file: f, mem: mem}, nil
}

// Name is what the region was made with.
func (r *Region) Name() string { return r.name }

// Size is the region's length in bytes.
func (r *Region) Size() int64 { return int64(len(r.mem)) }

// File is the region's descriptor, to hand to another process. The region
// keeps it.
func (r *Region) File() *os.File { return r.file }

// Base is the address of the first byte.
func (r *Region) Base() unsafe.Pointer { return unsafe.Pointer(unsafe.SliceData(r.mem)) }

// Bytes views n bytes from off, without touching them. It panics when the
// range is not inside the region.
func (r *Region) Bytes(off, n int64) []byte { return r.mem[off : off+n : off+n] }

// Populate commits the pages of a range and maps them writable, so that using
// them neither faults nor waits for memory. Their content stays. After an
// error some of the pages may be committed. off and n are multiples of
// PageSize.
func (r *Region) Populate(off, n int64) error {
	b, err := r.pages("populate", off, n)
	if err != nil || n == 0 {
		return err
	}
	if r.BeforePopulate != nil {
		if err := r.BeforePopulate(off, n); err != nil {
			return fmt.Errorf("shm: populate %s [%d, +%d): %w", r.name, off, n, err)
		}
	}
	if err := populate(b); err != nil {
		return fmt.Errorf("shm: populate %s [%d, +%d): %w", r.name, off, n, err)
	}
	return nil
}

// Lock pins the pages of a range in memory for as long as this process maps
// them, and commits those that are void.
func (r *Region) Lock(off, n int64) error {
	b, err := r.pages("lock", off, n)
	if err != nil || n == 0 {
		return err
	}
	if err := unix.Mlock(b); err != nil {
		return fmt.Errorf("shm: lock %s [%d, +%d): %w", r.name, off, n, err)
	}
	return nil
}

// Punch makes the pages of a range void and gives their memory back. Unpopulated
// pages stay void. off and n are multiples of PageSize.
func (r *Region) Punch(off, n int64) error {
	if _, err := r.pages("punch", off, n); err != nil || n == 0 {
		return err
	}
	const mode = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE
	err := retry(func() error { return unix.Fallocate(int(r.file.Fd()), mode, off, n) })
	if err != nil {
		return fmt.Errorf("shm: punch %s [%d, +%d): %w", r.name, off, n, err)
	}
	return nil
}

// Resident is the number of bytes in committed pages, swapped or not.
func (r *Region) Resident() (int64, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(r.file.Fd()), &st); err != nil {
		return 0, fmt.Errorf("shm: resident %s: %w", r.name, err)
	}
	return st.Blocks * 512, nil
}

// Data yields the ranges of committed pages, ascending, not adjacent. It moves
// the file's position and so must not run twice at a time.
func (r *Region) Data(yield func(off, n int64) bool) error { return r.data(0, r.Size(), yield) }

func (r *Region) data(from, to int64, yield func(off, n int64) bool) error {
	fd := int(r.file.Fd())
	for from < to {
		start, err := unix.Seek(fd, from, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("shm: data of %s from %d: %w", r.name, from, err)
		}
		if start >= to {
			return nil
		}
		end, err := unix.Seek(fd, start, unix.SEEK_HOLE)
		if err != nil {
			return fmt.Errorf("shm: hole of %s from %d: %w", r.name, start, err)
		}
		end = min(end, to)
		if !yield(start, end-start) {
			return nil
		}
		from = end
	}
	return nil
}

// Close unmaps the region and closes its descriptor. The pages go when no
// other process holds them.
func (r *Region) Close() error {
	err := unix.Munmap(r.mem)
	r.mem = nil
	if err = errors.Join(err, r.file.Close()); err != nil {
		return fmt.Errorf("shm: close %s: %w", r.name, err)
	}
	return nil
}

// pages checks that a range is whole pages inside the region.
func (r *Region) pages(op string, off, n int64) ([]byte, error) {
	if off < 0 || n < 0 || off%PageSize != 0 || n%PageSize != 0 || off > r.Size() || n > r.Size()-off {
		return nil, fmt.Errorf("shm: %s %s [%d, +%d): not whole pages of %d bytes: %w",
			op, r.name, off, n, r.Size(), unix.EINVAL)
	}
	return r.mem[off : off+n], nil
}

// populate commits the pages under b without changing them.
func populate(b []byte) error {
	err := retry(func() error { return unix.Madvise(b, unix.MADV_POPULATE_WRITE) })
	if errors.Is(err, unix.EFAULT) {
		return unix.ENOMEM // the fault would have been a SIGBUS: there is no page to be had
	}
	return err
}

// retry repeats a system call that a signal cut short; the Go runtime sends
// itself signals all the time.
func retry(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
