package host

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Flags of swapon(2), linux/swap.h.
const (
	swapFlagPrefer   = 0x8000
	swapFlagPrioMask = 0x7fff
	// Alone it asks for both kinds: everything at swapon, and clusters as
	// they become free. Without the second, freed pages would stay stored.
	swapFlagDiscard = 0x10000
)

// MaxSwapPriority is the highest priority that swapon(2) takes.
const MaxSwapPriority = swapFlagPrioMask

// Swap is a line of /proc/swaps.
type Swap struct {
	Path     string
	Size     int64 // bytes
	Used     int64 // bytes
	Priority int
}

// SwapOn enables a swap device with discards of both kinds.
func SwapOn(path string, priority int) error {
	flags := swapFlagDiscard | swapFlagPrefer | (priority & swapFlagPrioMask)
	name, err := unix.BytePtrFromString(path)
	if err != nil {
		return fmt.Errorf("swapon %s: %w", path, err)
	}
	if _, _, errno := unix.Syscall(unix.SYS_SWAPON, uintptr(unsafe.Pointer(name)), uintptr(flags), 0); errno != 0 {
		return fmt.Errorf("swapon %s: %w", path, errno)
	}
	return nil
}

// SwapOff disables a swap device; it returns when every page is back in
// memory, or with ENOMEM when memory cannot hold them.
func SwapOff(path string) error {
	name, err := unix.BytePtrFromString(path)
	if err != nil {
		return fmt.Errorf("swapoff %s: %w", path, err)
	}
	if _, _, errno := unix.Syscall(unix.SYS_SWAPOFF, uintptr(unsafe.Pointer(name)), 0, 0); errno != 0 {
		return fmt.Errorf("swapoff %s: %w", path, errno)
	}
	return nil
}

// Swaps lists the enabled swap devices.
func Swaps() ([]Swap, error) {
	text, err := os.ReadFile("/proc/swaps")
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil // a kernel without swap
	}
	if err != nil {
		return nil, fmt.Errorf("list swaps: %w", err)
	}
	return parseSwaps(string(text)), nil
}

func parseSwaps(text string) []Swap {
	var swaps []Swap
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 5 || !strings.HasPrefix(f[0], "/") {
			continue
		}
		size, err1 := strconv.ParseInt(f[len(f)-3], 10, 64)
		used, err2 := strconv.ParseInt(f[len(f)-2], 10, 64)
		prio, err3 := strconv.Atoi(f[len(f)-1])
		if errors.Join(err1, err2, err3) != nil {
			continue
		}
		swaps = append(swaps, Swap{Path: unescape(f[0]), Size: size << 10, Used: used << 10, Priority: prio})
	}
	return swaps
}

const swapPage = 4096

// MakeSwap writes a swap header (version 1, pages of 4096 bytes) on a block
// device. The label holds at most 16 bytes.
func MakeSwap(path, label string) error {
	dev, err := os.OpenFile(path, os.O_RDWR|unix.O_EXCL|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("make swap: %w", err)
	}
	defer dev.Close()
	size, err := dev.Seek(0, io.SeekEnd)
	if err != nil {
		return fmt.Errorf("make swap on %s: %w", path, err)
	}
	header, err := swapHeader(size, label)
	if err != nil {
		return fmt.Errorf("make swap on %s: %w", path, err)
	}
	if _, err := dev.WriteAt(header, 0); err != nil {
		return fmt.Errorf("make swap on %s: %w", path, err)
	}
	if err := dev.Sync(); err != nil {
		return fmt.Errorf("make swap on %s: %w", path, err)
	}
	return nil
}

// swapHeader is union swap_header of linux/swap.h for a device of size bytes.
func swapHeader(size int64, label string) ([]byte, error) {
	pages := size / swapPage
	if pages < 10 || pages > 1<<32 {
		return nil, fmt.Errorf("%d bytes is not a size for swap", size)
	}
	h := make([]byte, swapPage)
	binary.NativeEndian.PutUint32(h[1024:], 1)
	binary.NativeEndian.PutUint32(h[1028:], uint32(pages-1)) // last page
	uuid := h[1036:1052]
	rand.Read(uuid)
	uuid[6] = uuid[6]&0x0f | 0x40
	uuid[8] = uuid[8]&0x3f | 0x80
	copy(h[1052:1068], label)
	copy(h[swapPage-10:], "SWAPSPACE2")
	return h, nil
}
