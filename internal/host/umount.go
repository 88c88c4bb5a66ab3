package host

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"

	"golang.org/x/sys/unix"
)

// Unmount takes the topmost mount off dir, with fusermount3 where this
// process itself may not. lazy takes it out of sight even if it is in use.
// In use and not lazy: EBUSY.
func Unmount(dir string, lazy bool) error {
	flags := unix.UMOUNT_NOFOLLOW
	if lazy {
		flags |= unix.MNT_DETACH
	}
	err := unix.Unmount(dir, flags)
	if errors.Is(err, unix.EPERM) && os.Geteuid() != 0 {
		err = fusermount(dir, lazy)
	}
	if err != nil {
		return fmt.Errorf("umount %s: %w", dir, err)
	}
	return nil
}

// Abort ends the FUSE connection of what is mounted on a directory: everybody
// who waits for it gets an error. It is unmounted as well unless it is in use.
func Abort(dir string) error {
	err := unix.Unmount(dir, unix.UMOUNT_NOFOLLOW|unix.MNT_FORCE)
	if err != nil && !errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("abort %s: %w", dir, err)
	}
	return nil
}

func fusermount(dir string, lazy bool) error {
	flags := "-u"
	if lazy {
		flags = "-uz"
	}
	cmd := exec.Command("fusermount3", flags, "--", dir)
	cmd.Env = append(os.Environ(), "LC_ALL=C") // its words are read below
	out, err := cmd.CombinedOutput()
	if err == nil {
		return nil
	}
	out = bytes.TrimSpace(out)
	if bytes.Contains(out, []byte("busy")) {
		return unix.EBUSY
	}
	if bytes.Contains(out, []byte("not permitted")) || bytes.Contains(out, []byte("doesn't match")) {
		return fmt.Errorf("%s: %w", out, unix.EPERM)
	}
	return fmt.Errorf("%s: %w", out, err)
}
