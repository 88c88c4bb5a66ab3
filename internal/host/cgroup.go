package host

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// CgroupRoot finds the directory of the hierarchy that accounts memory:
// version 2's, or version 1's memory controller.
func CgroupRoot() (string, error) {
	const v2, v1 = "/sys/fs/cgroup", "/sys/fs/cgroup/memory"
	for _, probe := range []struct{ file, root string }{
		{v2 + "/cgroup.controllers", v2},
		{v1 + "/cgroup.procs", v1},
	} {
		if _, err := os.Stat(probe.file); err == nil {
			return probe.root, nil
		}
	}
	return "", errors.New("find memory cgroup: none is mounted")
}

// EnterCgroup moves this process into a cgroup of that name under the root,
// made if need be and without limits, so that what it allocates is not charged
// to, and not limited by, whoever started it.
func EnterCgroup(name string) error {
	root, err := CgroupRoot()
	if err != nil {
		return err
	}
	dir := filepath.Join(root, name)
	for range cgroupTries {
		if err = os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			break
		}
		err = writeValue(dir+"/cgroup.procs", strconv.Itoa(os.Getpid()))
		if !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.ENOENT) {
			break // else its last member removed it just now
		}
	}
	if err != nil {
		return fmt.Errorf("enter cgroup: %w", err)
	}
	spareCgroup(dir)
	return nil
}

// spareCgroup asks systemd to let the cgroup's processes live: through the last
// kill before the machine goes off, since swapoff may have failed, and when
// memory is short. These are the marks of SurviveFinalKillSignal and
// ManagedOOMPreference, which it sets on the cgroups of its own units.
func spareCgroup(dir string) {
	for _, mark := range []string{"user.survive_final_kill_signal", "user.oomd_omit"} {
		_ = unix.Setxattr(dir, mark, []byte("1"), 0) // version 1 and old kernels take none
	}
}

// cgroupTries bounds the races lost against LeaveCgroup in other processes.
const cgroupTries = 16

// LeaveCgroup moves this process to the root and removes the cgroup if it was
// the last in it. What is still charged there goes to the root.
func LeaveCgroup(name string) error {
	root, err := CgroupRoot()
	if err != nil {
		return err
	}
	if err := writeValue(root+"/cgroup.procs", strconv.Itoa(os.Getpid())); err != nil {
		return fmt.Errorf("leave cgroup: %w", err)
	}
	err = os.Remove(filepath.Join(root, name))
	if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("leave cgroup: %w", err)
	}
	return nil
}

// Cgroup is the path of a process in the hierarchy that accounts memory.
func Cgroup(pid int) (string, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return "", fmt.Errorf("read cgroup: %w", err)
	}
	return parseCgroup(string(text)), nil
}

func parseCgroup(text string) string {
	paths := parseCgroups(text)
	if path, ok := paths["memory"]; ok {
		return path
	}
	return paths[""]
}
