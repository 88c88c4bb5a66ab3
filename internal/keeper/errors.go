package keeper

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"golang.org/x/sys/unix"
)

// Code is an exit code of the command. Scripts rely on the numbers: they are
// never changed, only added to.
type Code int

// The exit codes.
const (
	CodeOK           Code = iota // done
	CodeFailure                  // anything that has no number of its own
	CodeUsage                    // a flag, size, name or value that cannot be taken
	CodeBusy                     // in use: nothing was changed, it goes on serving
	CodeNotMounted               // no zramfs is mounted there, or none of that name
	CodeNotPermitted             // needs more privilege
	CodeNoAttribute              // no such attribute or device
	CodeMountpoint               // the mount point is missing, no directory, not empty, or taken
	CodeLacking                  // the machine lacks something: /dev/fuse, a loop device, rings, pages of 4096 bytes
	CodeUnsafe                   // doctor or swapon: something that keeps the machine safe is missing
	CodeDamaged                  // check: a disk is damaged
	codes
)

// CodeHelp says in words what an exit code means, by number.
func CodeHelp() []string {
	return []string{
		CodeOK:           "success",
		CodeFailure:      "failure that has no number of its own",
		CodeUsage:        "a flag, size, name or value that cannot be taken",
		CodeBusy:         "in use; nothing was changed and the device goes on serving",
		CodeNotMounted:   "no zramfs is mounted there, or none of that name",
		CodeNotPermitted: "not permitted: more privilege is needed",
		CodeNoAttribute:  "no such attribute or device",
		CodeMountpoint:   "the mount point is missing, not a directory, not empty, or already mounted",
		CodeLacking: "the machine lacks something: /dev/fuse, a free loop device, " +
			"FUSE over io_uring where ring was asked for, or pages of 4096 bytes",
		CodeUnsafe:  "a guard that this machine could have is missing: zramfs doctor says which",
		CodeDamaged: "a disk is damaged: zramfs check says where",
	}
}

// Error is an error with an exit code and a sentence for people: what was
// wrong, what was expected, what to do.
type Error struct {
	Code Code
	Text string
	Err  error // the cause, may be nil
}

func (e *Error) Error() string {
	if e.Err == nil {
		return e.Text
	}
	return e.Text + ": " + e.Err.Error()
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// Errorf makes an Error without a cause.
func Errorf(code Code, format string, args ...any) error {
	return &Error{Code: code, Text: fmt.Sprintf(format, args...)}
}

// ExitCode finds the exit code of an error: its own, or what its errno says.
func ExitCode(err error) Code {
	var e *Error
	switch {
	case err == nil:
		return CodeOK
	case errors.As(err, &e):
		return e.Code
	case errors.Is(err, unix.EBUSY):
		return CodeBusy
	case errors.Is(err, fs.ErrPermission):
		return CodeNotPermitted
	case errors.Is(err, unix.EINVAL):
		return CodeUsage
	}
	return CodeFailure
}

// OneLine is the text of an error without line breaks.
func OneLine(err error) string {
	return strings.Join(strings.FieldsFunc(err.Error(), func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
}
