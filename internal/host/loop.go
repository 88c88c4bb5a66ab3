package host

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Loop is an attached loop device, as /sys tells it.
type Loop struct {
	Path    string // /dev/loopN
	Number  int
	Backing string // path of the file behind it, as the kernel names it now
	Direct  bool   // direct I/O is on
}

// loopTries bounds the races lost against others who take the same device.
const loopTries = 16

// AttachLoop puts a loop device on the file: direct I/O, blocks of 4096
// bytes, stable_writes on, writeback throttling off, requests counted. It returns warnings for
// queue settings that the machine does not let us make; without direct I/O it
// detaches again and returns ErrNoDirectIO. No device to be had: ErrNoLoop.
func AttachLoop(file string) (Loop, []string, error) {
	backing, err := os.OpenFile(file, os.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return Loop{}, nil, fmt.Errorf("attach loop: %w", err)
	}
	defer backing.Close()

	number, err := configureLoop(backing)
	if err != nil {
		return Loop{}, nil, fmt.Errorf("attach loop to %s: %w", file, err)
	}
	loop := Loop{Path: loopPath(number), Number: number, Backing: file}

	// The kernel drops LO_FLAGS_DIRECT_IO without a word when it cannot.
	dio, err := readTrimmed(loop.sys("loop/dio"))
	if err == nil && dio != "1" {
		err = ErrNoDirectIO
	}
	if err != nil {
		return Loop{}, nil, errors.Join(fmt.Errorf("attach loop to %s: %w", file, err), DetachLoop(loop.Path))
	}
	loop.Direct = true

	var warnings []string
	for _, set := range []struct{ file, value string }{
		{"queue/stable_writes", "1"}, // sampled by swapon and by mounts, so set before them
		{"queue/wbt_lat_usec", "0"},
		{"queue/iostats", "1"}, // without it none is ever in flight, as the watchdog sees it
	} {
		if now, err := readTrimmed(loop.sys(set.file)); err == nil && now == set.value {
			continue
		}
		if err := writeValue(loop.sys(set.file), set.value); err != nil {
			warnings = append(warnings, err.Error())
		}
	}
	return loop, warnings, nil
}

func configureLoop(backing *os.File) (int, error) {
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", ErrNoLoop, err)
	}
	defer control.Close()
	for range loopTries {
		number, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return 0, fmt.Errorf("%w: %w", ErrNoLoop, err)
		}
		dev, err := openLoop(number)
		if err != nil {
			return 0, fmt.Errorf("%w: %w", ErrNoLoop, err)
		}
		config := unix.LoopConfig{Fd: uint32(backing.Fd()), Size: 4096}
		config.Info.Flags = unix.LO_FLAGS_DIRECT_IO
		copy(config.Info.File_name[:63], backing.Name())
		err = unix.IoctlLoopConfigure(int(dev.Fd()), &config)
		dev.Close()
		if err == nil {
			return number, nil
		}
		if !errors.Is(err, unix.EBUSY) {
			return 0, fmt.Errorf("configure %s: %w", loopPath(number), err)
		}
	}
	return 0, fmt.Errorf("%w: others took %d of them first", ErrNoLoop, loopTries)
}

// openLoop opens /dev/loopN. In a container /dev is not the kernel's own, so
// the node of a device that was made just now has to be made there too.
func openLoop(number int) (*os.File, error) {
	path := loopPath(number)
	dev, err := os.OpenFile(path, os.O_RDWR|unix.O_CLOEXEC, 0)
	if !errors.Is(err, os.ErrNotExist) {
		return dev, err
	}
	const loopMajor = 7
	if err := unix.Mknod(path, unix.S_IFBLK|0o600, int(unix.Mkdev(loopMajor, uint32(number)))); err != nil {
		return nil, fmt.Errorf("make %s: %w", path, err)
	}
	return os.OpenFile(path, os.O_RDWR|unix.O_CLOEXEC, 0)
}

// DetachLoop frees a loop device; busy (mounted, swap) gives EBUSY. What
// AttachLoop set of the queue goes back first, since the next user of the
// device would inherit it.
// Somebody who only passes by, as udev does or another who looks for a free
// device, delays it to when he closes it: that is waited for, but not for ever.
func DetachLoop(path string) error {
	if err := detachLoop(path); err != nil {
		return err
	}
	backing := filepath.Join("/sys/block", filepath.Base(path), "loop/backing_file")
	for end := time.Now().Add(detachWait); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(backing); err != nil {
			break
		}
	}
	return nil
}

// detachWait is for passers-by. Who holds it longer is its last user, and the
// kernel detaches it when he is done.
const detachWait = 2 * time.Second

func detachLoop(path string) error {
	// LOOP_CLR_FD on a device that others use succeeds and detaches later, at
	// their last close. An exclusive open tells a user from a passer-by.
	dev, err := os.OpenFile(path, os.O_RDWR|unix.O_EXCL|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("detach loop: %w", err)
	}
	defer dev.Close()
	sys := filepath.Join("/sys/block", filepath.Base(path))
	for _, set := range []struct{ file, value string }{
		{"queue/stable_writes", "0"},
		{"queue/wbt_lat_usec", "-1"}, // the kernel's default
	} {
		// Nothing is lost if a container may not: best effort.
		_ = writeValue(filepath.Join(sys, set.file), set.value)
	}
	return clearLoop(dev, path)
}

// ReleaseLoops lets go of the loop devices whose file lies in dir, which will
// never answer again: now, or when their last user lets go of them. Once dir
// is unmounted nobody could tell any more whose they were. The queue settings
// stay: the kernel changes them once the device is at rest, and requests of a
// dead mount may be under way for as long as the caller holds its connection.
func ReleaseLoops(dir string) error {
	loops, err := LoopsBelow(dir)
	for _, l := range loops {
		dev, openErr := os.OpenFile(l.Path, os.O_RDWR|unix.O_CLOEXEC, 0)
		if openErr != nil {
			err = errors.Join(err, fmt.Errorf("release loop: %w", openErr))
			continue
		}
		err = errors.Join(err, clearLoop(dev, l.Path))
		dev.Close()
	}
	return err
}

// clearLoop detaches, at the last close.
func clearLoop(dev *os.File, path string) error {
	if err := unix.IoctlSetInt(int(dev.Fd()), unix.LOOP_CLR_FD, 0); err != nil {
		return fmt.Errorf("detach %s: %w", path, err)
	}
	return nil
}

// LoopsBelow lists the loop devices whose file lies in dir (absolute, clean).
func LoopsBelow(dir string) ([]Loop, error) {
	loops, err := Loops()
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(loops, func(l Loop) bool { return !Below(l.Backing, dir) }), nil
}

// Loops lists the attached loop devices by number.
func Loops() ([]Loop, error) {
	entries, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return nil, fmt.Errorf("list loop devices: %w", err)
	}
	var loops []Loop
	for _, file := range entries {
		name := strings.Split(file, "/")[3]
		number, err := strconv.Atoi(strings.TrimPrefix(name, "loop"))
		if err != nil {
			continue
		}
		backing, err := readTrimmed(file)
		if err != nil {
			continue // detached meanwhile
		}
		dio, _ := readTrimmed(filepath.Dir(file), "dio")
		loops = append(loops, Loop{Path: loopPath(number), Number: number, Backing: backing, Direct: dio == "1"})
	}
	slices.SortFunc(loops, func(a, b Loop) int { return a.Number - b.Number })
	return loops, nil
}

func loopPath(number int) string { return "/dev/loop" + strconv.Itoa(number) }

func (l Loop) sys(file string) string {
	return filepath.Join("/sys/block", filepath.Base(l.Path), file)
}
