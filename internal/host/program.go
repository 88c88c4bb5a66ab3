package host

import (
	"encoding/binary"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// PopulateProgram has every page of the running program mapped: its text, its
// constants, its data. What has not run yet would fault at its first use, and
// a fault may need a page for the page table.
func PopulateProgram() error {
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("populate program: %w", err)
	}
	ranges, err := addresses(func(permissions, name string) bool { return name == exe && permissions[0] == 'r' })
	if err != nil {
		return fmt.Errorf("populate program: %w", err)
	}
	for _, r := range ranges {
		if err := r.populate(); err != nil {
			return fmt.Errorf("populate program: %w", err)
		}
	}
	return nil
}

const (
	// A mapping of the runtime's that is larger has room for heaps that this
	// process will never have.
	largestRuntime = 2 << 20
	// So much of the zeroed data is in use; what follows is one array for
	// modules that this program does not use.
	zeroedData = 512 << 10
)

// PopulateRuntime has all that the runtime keeps beside the heap mapped and
// written to: tables that grow at the first use of something, such as that of
// conversions between types, and the program's zeroed data. What was only
// read is the kernel's page of zeroes, and faults when it is written.
func PopulateRuntime() error {
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("populate runtime: %w", err)
	}
	data := uintptr(0) // end of the program's data
	ranges, err := addresses(func(permissions, name string) bool {
		return permissions == "rw-p" && (name == "" || name == exe)
	})
	if err != nil {
		return fmt.Errorf("populate runtime: %w", err)
	}
	for _, r := range ranges {
		switch {
		case r.name != "":
			data = r.end
			continue
		case r.start == data:
			r.end = min(r.end, r.start+zeroedData)
		case r.end-r.start > largestRuntime:
			continue
		}
		if err := r.populate(); err != nil {
			return fmt.Errorf("populate runtime: %w", err)
		}
	}
	return nil
}

// PopulateFrom does the same for private memory: size bytes of the writable
// mapping that holds an address, from its beginning; and as many as are beyond
// after the last page that exists there already.
func PopulateFrom(address uintptr, size, beyond int64) error {
	ranges, err := addresses(func(permissions, _ string) bool { return permissions == "rw-p" })
	for _, r := range ranges {
		if r.start <= address && address < r.end {
			var there int64
			if there, err = r.extent(); err == nil {
				size = max(size, there+beyond)
				r.end = min(r.end, r.start+uintptr(size+pageMask)&^pageMask)
				err = r.populate()
			}
		}
	}
	if err != nil {
		return fmt.Errorf("populate memory: %w", err)
	}
	return nil
}

// extent is how many bytes lie before the end of the last page that exists
// (linux/Documentation/admin-guide/mm/pagemap.rst).
func (r addressRange) extent() (int64, error) {
	const entry, present = 8, 1 << 63
	f, err := os.Open("/proc/self/pagemap")
	if err != nil {
		return 0, err
	}
	defer f.Close()
	entries := make([]byte, int64(r.end-r.start)/(pageMask+1)*entry)
	n, err := f.ReadAt(entries, int64(r.start)/(pageMask+1)*entry)
	if err != nil && n < len(entries) {
		return 0, err
	}
	for ; n >= entry; n -= entry {
		if binary.NativeEndian.Uint64(entries[n-entry:n])&present != 0 {
			return int64(n / entry * (pageMask + 1)), nil
		}
	}
	return 0, nil
}

const pageMask = 4095

// addressRange is a mapping of this process.
type addressRange struct {
	start, end uintptr
	writable   bool
	name       string
}

func (r addressRange) populate() error {
	advice := unix.MADV_POPULATE_READ
	if r.writable {
		advice = unix.MADV_POPULATE_WRITE
	}
	if _, _, errno := unix.Syscall(unix.SYS_MADVISE, r.start, r.end-r.start, uintptr(advice)); errno != 0 {
		return fmt.Errorf("madvise: %w", errno)
	}
	return nil
}

// addresses lists the mappings of this process that are wanted.
func addresses(want func(permissions, name string) bool) ([]addressRange, error) {
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return nil, err
	}
	var found []addressRange
	for line := range strings.Lines(string(maps)) {
		f := strings.Fields(line) // range permissions offset device inode [name]
		if len(f) < 5 || !want(f[1], strings.Join(f[5:], " ")) {
			continue
		}
		low, high, _ := strings.Cut(f[0], "-")
		start, err := strconv.ParseUint(low, 16, 64)
		if err != nil {
			return nil, err
		}
		end, err := strconv.ParseUint(high, 16, 64)
		if err != nil {
			return nil, err
		}
		found = append(found, addressRange{uintptr(start), uintptr(end), f[1][1] == 'w', strings.Join(f[5:], " ")})
	}
	return found, nil
}
