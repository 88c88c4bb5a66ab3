package host

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
)

// Mapping is a mapping of a process, from its /proc smaps; sizes are bytes.
type Mapping struct {
	Name     string // path, or what the kernel calls it; "" if anonymous
	Size     int64
	Resident int64
	Swapped  int64
	Shared   bool
	Locked   bool // mlock'ed: what is resident stays so
}

// Mappings lists the mappings of a process. It takes the right to debug it.
func Mappings(pid int) ([]Mapping, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps", pid))
	if err != nil {
		return nil, fmt.Errorf("list mappings: %w", err)
	}
	return parseMappings(string(text)), nil
}

// parseMappings leaves out what the kernel itself maps into each process
// ([vdso], [vvar], an io_uring, ...): it is no memory of the process, and never
// swapped.
func parseMappings(smaps string) []Mapping {
	var all []Mapping
	for line := range strings.Lines(smaps) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		if !strings.HasSuffix(f[0], ":") { // range permissions offset device inode [name]
			if len(f) < 5 || len(f[1]) != 4 {
				continue
			}
			all = append(all, Mapping{Name: strings.Join(f[5:], " "), Shared: f[1][3] == 's'})
			continue
		}
		if len(all) == 0 {
			continue
		}
		m := &all[len(all)-1]
		switch f[0] {
		case "Size:":
			m.Size = kibibytes(f[1])
		case "Rss:":
			m.Resident = kibibytes(f[1])
		case "Swap:":
			m.Swapped = kibibytes(f[1])
		case "VmFlags:":
			m.Locked = slices.Contains(f[1:], "lo")
		}
	}
	return slices.DeleteFunc(all, func(m Mapping) bool {
		return strings.HasPrefix(m.Name, "[v") || strings.HasPrefix(m.Name, "anon_inode:[io_uring]")
	})
}

func kibibytes(text string) int64 {
	n, _ := strconv.ParseInt(text, 10, 64)
	return n << 10
}
