package keeper

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/zramfs/zramfs/internal/nearest"
)

// classDir holds what belongs to no device: hot_add and hot_remove.
const classDir = "sys/class/zram-control"

// attributeDirs are the directories that hold the attributes of a device, in
// the order in which a bare name is looked for.
func attributeDirs(id int) []string {
	name := "zram" + strconv.Itoa(id)
	return []string{
		filepath.Join(blockDir, name),
		filepath.Join(blockDir, name, "zramfs"),
		filepath.Join("sys/kernel/debug/zsmalloc", name),
		filepath.Join("sys/kernel/debug/zram", name),
		classDir,
	}
}

// splitAttribute takes the device out of "zram1/mm_stat".
func splitAttribute(name string, id int) (string, int, error) {
	first, rest, ok := strings.Cut(name, "/")
	number, found := strings.CutPrefix(first, "zram")
	if !ok || !found || number == "fs" { // zramfs/stable_stat names no device
		return name, id, nil
	}
	id, err := strconv.Atoi(number)
	if err != nil || id < 0 {
		return "", 0, Errorf(CodeUsage, "%q names no device: expected zramN/ATTRIBUTE", name)
	}
	return rest, id, nil
}

// attributePath finds the file of an attribute in a mount. Unknown ones are
// answered with the nearest names.
func attributePath(point, attribute string, id int) (string, error) {
	name, id, err := splitAttribute(attribute, id)
	if err != nil {
		return "", err
	}
	ids, err := deviceIDs(point)
	if err != nil {
		return "", err
	}
	if !slices.Contains(ids, id) {
		return "", Errorf(CodeNoAttribute, "%s has no device zram%d", point, id)
	}
	bare := strings.TrimPrefix(name, "zramfs/")
	var names []string
	for _, dir := range attributeDirs(id) {
		entries, err := os.ReadDir(filepath.Join(point, dir))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
		for _, e := range entries {
			if e.IsDir() {
				continue
			}
			if e.Name() == bare {
				return filepath.Join(point, dir, bare), nil
			}
			names = append(names, e.Name())
		}
	}
	return "", Errorf(CodeNoAttribute, "no attribute %q: the nearest names are %s", name, strings.Join(nearest.Of(bare, names, 3), ", "))
}

// Get reads an attribute of a device of a mount.
func Get(path, attribute string, id int) (string, error) {
	m, err := Find(path)
	if err != nil {
		return "", err
	}
	file, err := attributePath(m.Point, attribute, id)
	if err != nil {
		return "", err
	}
	text, err := os.ReadFile(file)
	switch {
	case errors.Is(err, fs.ErrPermission):
		err = &Error{CodeNotPermitted, attribute + " cannot be read", err}
	case errors.Is(err, unix.EINVAL) && filepath.Base(file) == "image":
		err = &Error{CodeUsage, attribute + " is no text: zramfs save reads it", err}
	}
	return string(text), err
}

// Set stores a value in an attribute of a device of a mount.
func Set(path, attribute, value string, id int) error {
	m, err := Find(path)
	if err != nil {
		return err
	}
	file, err := attributePath(m.Point, attribute, id)
	if err != nil {
		return err
	}
	if filepath.Base(file) == attrResize { // there is more to do, and to say
		_, id, _ := splitAttribute(attribute, id)
		size, err := ParseSize(value)
		if err == nil {
			_, err = Resize(path, size, id)
		}
		return err
	}
	err = store(file, value)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return &Error{CodeNotPermitted, attribute + " cannot be written", err}
	case errors.Is(err, unix.EINVAL):
		return &Error{CodeUsage, fmt.Sprintf("%s does not take %q", attribute, value), err}
	case errors.Is(err, unix.EAGAIN):
		return &Error{CodeBusy, attribute + " is at work already: wait until that has ended", err}
	case errors.Is(err, unix.EBUSY):
		return &Error{CodeBusy, attribute + " cannot be changed while the device is set up or open", err}
	}
	return err
}

// store writes a value to the file of an attribute. Not by os.File: a FUSE file
// can be polled, so EAGAIN would be waited out, for ever.
func store(file, value string) error {
	fd, err := unix.Open(file, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: file, Err: err}
	}
	defer unix.Close(fd)
	for {
		// EINTR is for signals that this process does not die of.
		if _, err = unix.Write(fd, []byte(value+"\n")); err == nil {
			return nil
		}
		if err != unix.EINTR {
			return &fs.PathError{Op: "write", Path: file, Err: err}
		}
	}
}
