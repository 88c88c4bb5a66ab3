package host

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
)

// FSType is the type under which the kernel lists our mounts.
const FSType = "fuse.zramfs"

// Mount is a line of /proc/self/mountinfo.
type Mount struct {
	Point  string // where it is mounted
	Type   string
	Source string
	Minor  uint32 // of the anonymous device: the connection's name in fusectl
	Dev    string // major:minor
}

// Mounts lists the mounts this process sees, the lowest first.
func Mounts() ([]Mount, error) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	return parseMountinfo(string(text)), nil
}

func parseMountinfo(text string) []Mount {
	var mounts []Mount
	for line := range strings.Lines(text) {
		// id parent major:minor root point options [optional...] - type source super
		f := strings.Fields(line)
		dash := slices.Index(f, "-")
		if dash < 6 || len(f) < dash+3 {
			continue
		}
		_, minor, _ := strings.Cut(f[2], ":")
		n, _ := strconv.ParseUint(minor, 10, 32)
		mounts = append(mounts, Mount{
			Point:  unescape(f[4]),
			Type:   f[dash+1],
			Source: unescape(f[dash+2]),
			Minor:  uint32(n),
			Dev:    f[2],
		})
	}
	return mounts
}

// MountAt finds the topmost mount whose mount point is exactly dir.
func MountAt(dir string) (Mount, bool, error) {
	mounts, err := Mounts()
	if err != nil {
		return Mount{}, false, err
	}
	for _, m := range slices.Backward(mounts) {
		if m.Point == dir {
			return m, true, nil
		}
	}
	return Mount{}, false, nil
}

// unescape undoes the kernel's octal escapes (\040 for a space).
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
