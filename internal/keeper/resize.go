package keeper

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/zramfs/zramfs/internal/host"
)

// reach is to how many bytes a disk can grow, whatever size it was made with.
// It costs addresses only.
const reach = 64 << 30

// attrResize is the attribute that tells and changes the size of a disk.
const attrResize = "resize"

// Resized is a disk that has another size, and the loop devices that know.
type Resized struct {
	Device string   `json:"device"`
	Size   int64    `json:"size"`
	Loops  []string `json:"loops"`
}

// Resize makes the disk of a device larger or smaller while it serves, and tells
// the loop devices on it. A page in use beyond the new end, or swap on a disk
// that is to shrink: CodeBusy, and nothing was changed.
func Resize(path string, size int64, id int) (Resized, error) {
	m, err := Find(path)
	if err != nil {
		return Resized{}, err
	}
	file, err := attributePath(m.Point, attrResize, id)
	if err != nil {
		return Resized{}, err
	}
	was, err := readSizes(file)
	if err != nil {
		return Resized{}, err
	}
	loops, err := loopsOn(m.Point, id)
	if err != nil {
		return Resized{}, err
	}
	name := "zram" + strconv.Itoa(id)
	size = (size + pageSize - 1) &^ (pageSize - 1)
	if size < was.size {
		if err := noSwapOn(name, loops); err != nil {
			return Resized{}, err
		}
	}
	if err := store(file, strconv.FormatInt(size, 10)); err != nil {
		return Resized{}, resizeError(name, file, size, was, err)
	}
	r := Resized{Device: name, Size: size, Loops: []string{}}
	if _, err := os.Stat(diskPath(m.Point, id)); err != nil { // so that the kernel knows
		return r, err
	}
	for _, l := range loops {
		n, err := host.ResizeLoop(l.Path)
		if errors.Is(err, fs.ErrPermission) {
			err = &Error{CodeNotPermitted, fmt.Sprintf("%s has %s, but %s is not told: that needs root; losetup --set-capacity %s does it",
				name, HumanSize(size), l.Path, l.Path), err}
		}
		if err == nil && n != size {
			err = Errorf(CodeFailure, "%s has %d bytes and %s %d: somebody else resizes it; run resize again", name, size, l.Path, n)
		}
		if err != nil {
			return r, err
		}
		r.Loops = append(r.Loops, l.Path)
	}
	return r, nil
}

// noSwapOn says whether a disk may shrink: the kernel keeps the slots of swap
// as they were, and would write beyond the end.
func noSwapOn(name string, loops []host.Loop) error {
	swaps, err := host.Swaps()
	if err != nil {
		return err
	}
	for _, l := range loops {
		if slices.ContainsFunc(swaps, func(s host.Swap) bool { return s.Path == l.Path }) {
			return Errorf(CodeBusy, "%s is swap, by %s, and cannot become smaller: turn it off first (swapoff %s), and mkswap it after",
				name, l.Path, l.Path)
		}
	}
	return nil
}

// resizeError says why a disk keeps its size.
func resizeError(name, file string, size int64, was sizes, err error) error {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return &Error{CodeNotPermitted, "resize is for the owner of the mount", err}
	case errors.Is(err, unix.EOPNOTSUPP):
		return &Error{CodeUsage, name + " is cut into segments for swap, which keep their size: zramfs swapoff, " +
			"then zramfs swapon --size, makes a swap of another size", err}
	case errors.Is(err, unix.ERANGE):
		return &Error{CodeUsage, fmt.Sprintf("%s can grow to %s at most, which was settled when it got its first size: "+
			"for a larger disk mount another", name, HumanSize(was.most)), err}
	case errors.Is(err, unix.EBUSY):
		if now, e := readSizes(file); e == nil {
			was = now
		}
		return &Error{CodeBusy, fmt.Sprintf("page %d of %s is in use, the highest that is: it can shrink to %d bytes; for less, "+
			"discard what lies beyond byte %d first", was.used/pageSize-1, name, was.used, size), err}
	case errors.Is(err, unix.EINVAL) && was.size == 0:
		return &Error{CodeUsage, name + " has no size yet: set its disksize", err}
	case errors.Is(err, unix.EINVAL):
		return &Error{CodeUsage, fmt.Sprintf("%s cannot have %d bytes: need 4096 or more; reset empties it", name, size), err}
	}
	return fmt.Errorf("resize %s: %w", name, err)
}

// sizes is what the attribute tells, in bytes.
type sizes struct{ size, most, used int64 }

func readSizes(file string) (s sizes, err error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return s, err
	}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		n, _ := strconv.ParseInt(value, 10, 64)
		switch name {
		case "size":
			s.size = n
		case "max_size":
			s.most = n
		case "used_to":
			s.used = n
		}
	}
	return s, nil
}
