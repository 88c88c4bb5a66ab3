package host

import (
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"
)

// ReadValue reads a one-value file of /sys or /proc.
func ReadValue(path string) (string, error) {
	value, err := readTrimmed(path)
	if err != nil {
		return "", fmt.Errorf("read value: %w", err)
	}
	return value, nil
}

// WriteValue writes a one-value file of /sys or /proc.
func WriteValue(path, value string) error {
	if err := writeValue(path, value); err != nil {
		return fmt.Errorf("write value: %w", err)
	}
	return nil
}

// Writable says whether this process could write a file of /sys or /proc: in
// a container they are often read-only.
func Writable(path string) error {
	if err := unix.Access(path, unix.W_OK); err != nil {
		return &fs.PathError{Op: "write", Path: path, Err: err}
	}
	return nil
}

// NotToBeHad says whether an error means that this machine, or this user on
// it, will not give what was asked for, however often.
func NotToBeHad(err error) bool {
	return errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.EROFS) ||
		errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EOPNOTSUPP)
}
