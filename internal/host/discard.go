package host

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// DiscardDevice empties a block device from byte from to its end. In use: EBUSY.
func DiscardDevice(path string, from int64) error {
	dev, err := os.OpenFile(path, os.O_RDWR|os.O_EXCL|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("discard: %w", err)
	}
	defer dev.Close()
	size, err := unix.Seek(int(dev.Fd()), 0, unix.SEEK_END)
	if err == nil {
		err = discard(dev, from, size)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

const blkDiscard = 0x1277 // BLKDISCARD

// discard empties the bytes from from to to of a block device.
func discard(dev *os.File, from, to int64) error {
	span := [2]uint64{uint64(from), uint64(to - from)}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, dev.Fd(), blkDiscard, uintptr(unsafe.Pointer(&span))); errno != 0 {
		return fmt.Errorf("discard: %w", errno)
	}
	return nil
}
