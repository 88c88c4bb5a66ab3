package keeper

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// Start mounts: it starts a keeper and returns when the disk serves, with the
// warnings of what the machine did not allow. In the foreground it becomes the
// keeper and does not return unless it cannot.
func Start(c Config) ([]string, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	file, err := makeBoot(c)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if c.Foreground {
		return nil, becomeKeeper(c, file)
	}

	reader, writer, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("start keeper: %w", err)
	}
	defer reader.Close()
	cmd := exec.Command("/proc/self/exe", "keeper", c.Mountpoint)
	cmd.Args[0] = "zramfs"
	cmd.Dir = "/" // a daemon keeps no file system busy
	cmd.ExtraFiles = []*os.File{file, writer}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	writer.Close()
	if err != nil {
		return nil, fmt.Errorf("start keeper: %w", err)
	}
	var r report
	text, err := io.ReadAll(reader)
	if err == nil {
		err = json.Unmarshal(text, &r)
	}
	switch {
	case err != nil:
		return nil, Errorf(CodeFailure, "the keeper ended without a word: %v", errors.Join(cmd.Wait(), err))
	case r.Failed != nil:
		_ = cmd.Wait() // its reason is known
		return nil, r.Failed.error()
	}
	return r.Notes, cmd.Process.Release()
}

func becomeKeeper(c Config, file *os.File) error {
	if err := unix.Dup3(int(file.Fd()), bootFD, 0); err != nil && !errors.Is(err, unix.EINVAL) { // EINVAL: it is that number
		return fmt.Errorf("start keeper: %w", err)
	}
	if _, err := unix.FcntlInt(bootFD, unix.F_SETFD, 0); err != nil {
		return fmt.Errorf("start keeper: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return fmt.Errorf("start keeper: %w", err)
	}
	args := []string{"zramfs", "keeper", c.Mountpoint}
	return fmt.Errorf("start keeper: %w", syscall.Exec("/proc/self/exe", args, os.Environ()))
}
