package host

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// WarmDepth is how many requests a loop device takes at once: its tags.
const WarmDepth = 128

// The sizes of swap's requests, from a page to a merged cluster.
const (
	warmLeast = 4 << 10
	warmMost  = 128 << 10
)

// iocb and ioEvent are those of linux/aio_abi.h, little or big endian alike as
// long as the fields between are zero.
type iocb struct {
	_      [2]uint64 // data, key, flags
	opcode uint16
	_      int16 // priority
	file   uint32
	buf    uint64
	bytes  uint64
	offset int64
	_      [2]uint64
}

type ioEvent struct {
	_   [2]uint64
	res int64 // bytes, or the negative errno
	_   int64
}

// warmMixed is how many pages of a request are not zeros: enough for whoever
// answers to have done all it does with a page, little enough to hold.
const warmMixed = 8

// warmPages makes pages by turns such that compress well, and not at all.
func warmPages(pages []byte) {
	for i := 0; i < len(pages); i += 2 * warmLeast {
		for at := 0; at < warmLeast; at += 16 {
			binary.NativeEndian.PutUint32(pages[i+at:], uint32(at))
		}
		rand.Read(pages[i+warmLeast : i+2*warmLeast])
	}
}

const (
	opRead  = 0 // IOCB_CMD_PREAD
	opWrite = 1 // IOCB_CMD_PWRITE
)

// WarmLoop sends a loop device as many requests at once as it takes, of every
// size that swap sends, so that the kernel's side of the way, loop and FUSE,
// has made the objects and threads it needs before there is no memory for
// them. What was on the device is lost: it reads as zeros afterwards. In use:
// EBUSY. It returns how many requests were answered. With several devices,
// brief will do for all but one: they share most of what is made.
func WarmLoop(path string, brief bool) (int, error) {
	dev, err := os.OpenFile(path, os.O_RDWR|os.O_EXCL|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("warm: %w", err)
	}
	defer dev.Close()
	size, err := unix.Seek(int(dev.Fd()), 0, unix.SEEK_END)
	if err != nil {
		return 0, fmt.Errorf("warm %s: %w", path, err)
	}
	// One buffer for all of them: nobody looks at what comes.
	buf, err := unix.Mmap(-1, 0, 2*warmMost, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return 0, fmt.Errorf("warm: %w", err)
	}
	defer func() { _ = unix.Munmap(buf) }() // ours, and whole
	warmPages(buf[:warmLeast*warmMixed])
	var context uintptr
	if _, _, errno := unix.Syscall(unix.SYS_IO_SETUP, WarmDepth, uintptr(unsafe.Pointer(&context)), 0); errno != 0 {
		return 0, fmt.Errorf("warm: set up asynchronous I/O: %w", errno)
	}
	defer func() { _, _, _ = unix.Syscall(unix.SYS_IO_DESTROY, context, 0, 0) }()
	most := min(int64(warmMost), size)
	if brief {
		most = warmLeast
	}
	done := 0
	for bytes := int64(warmLeast); bytes <= most; bytes *= 2 {
		for _, op := range []uint16{opWrite, opRead} {
			n, err := burst(context, dev, op, buf, bytes, size)
			done += n
			if err != nil {
				return done, fmt.Errorf("warm %s: %w", path, err)
			}
		}
	}
	if err := discard(dev, 0, size); err != nil {
		return done, fmt.Errorf("warm %s: %w", path, err)
	}
	return done, nil
}

// burst has WarmDepth requests under way at once, spread over the device so
// that none is merged with its neighbour, and waits for all.
func burst(context uintptr, dev *os.File, op uint16, buf []byte, bytes, size int64) (int, error) {
	if op == opRead {
		buf = buf[warmMost:]
	}
	blocks := make([]iocb, WarmDepth)
	list := make([]*iocb, WarmDepth)
	for i := range blocks {
		blocks[i] = iocb{
			opcode: op,
			file:   uint32(dev.Fd()),
			buf:    uint64(uintptr(unsafe.Pointer(&buf[0]))),
			bytes:  uint64(bytes),
			offset: int64(i) * (size / WarmDepth) &^ (warmLeast - 1) % (size - bytes + 1) &^ (warmLeast - 1),
		}
		list[i] = &blocks[i]
	}
	var sent int
	for sent < WarmDepth {
		n, _, errno := unix.Syscall(unix.SYS_IO_SUBMIT, context, uintptr(WarmDepth-sent), uintptr(unsafe.Pointer(&list[sent])))
		if errno != 0 {
			return 0, fmt.Errorf("submit: %w", errno)
		}
		sent += int(n)
	}
	events := make([]ioEvent, WarmDepth)
	for got := 0; got < sent; {
		n, _, errno := unix.Syscall6(unix.SYS_IO_GETEVENTS, context, 1, uintptr(sent-got),
			uintptr(unsafe.Pointer(&events[got])), 0, 0)
		if errors.Is(errno, unix.EINTR) {
			continue
		}
		if errno != 0 {
			return 0, fmt.Errorf("wait for answers: %w", errno)
		}
		got += int(n)
	}
	for i, e := range events {
		if e.res != bytes {
			return i, fmt.Errorf("request of %d bytes: answer %d: %w", bytes, e.res, unix.EIO)
		}
	}
	return len(events), nil
}
