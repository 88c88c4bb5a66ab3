package host

import (
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
