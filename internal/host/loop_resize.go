package host

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// ResizeLoop has a loop device take the size that its file has now, and says
// which that is. The kernel remembers a file's size, so who calls looks at the
// file first.
func ResizeLoop(path string) (int64, error) {
	dev, err := os.OpenFile(path, os.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("resize loop: %w", err)
	}
	defer dev.Close()
	if err := unix.IoctlSetInt(int(dev.Fd()), unix.LOOP_SET_CAPACITY, 0); err != nil {
		return 0, fmt.Errorf("resize %s: %w", path, err)
	}
	text, err := ReadValue(filepath.Join("/sys/block", filepath.Base(path), "size"))
	if err != nil {
		return 0, fmt.Errorf("resize %s: %w", path, err)
	}
	sectors, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("resize %s: %w", path, err)
	}
	return sectors * 512, nil
}
