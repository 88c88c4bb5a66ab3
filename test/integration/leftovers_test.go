package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/zramfs/zramfs/internal/host"
)

// scratch makes a directory of the test. When the test ends nothing of ours
// may be below it, and this process has the descriptors that it had.
func scratch(t *testing.T) string {
	t.Helper()
	before := descriptors(t)
	dir, err := os.MkdirTemp("", "zramfs-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		nothing(t, dir)
		for fd, what := range descriptors(t) {
			if before[fd] != what {
				t.Errorf("descriptor %s is left open: %s", fd, what)
			}
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// nothing fails the test if a mount, swap, loop device or process is left
// below a directory, and clears it away for the tests to come.
func nothing(t *testing.T, dir string) {
	t.Helper()
	var left []string
	for range 500 { // a zramfs that was told to go may need a moment
		if left = leftovers(dir); left == nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("left behind: %q", left)
	for range 3 { // a file system goes before its loop device, that before the mount
		mounts, _ := host.Mounts()
		slices.Reverse(mounts)
		for _, m := range mounts {
			if host.Below(m.Point, dir) && m.Type != host.FSType {
				_ = host.Unmount(m.Point, true)
			}
		}
		loops, _ := host.LoopsBelow(dir)
		for _, l := range loops {
			_ = host.SwapOff(l.Path)
			_ = host.DetachLoop(l.Path)
		}
		for _, m := range mounts {
			if host.Below(m.Point, dir) && m.Type == host.FSType {
				_ = host.Unmount(m.Point, true)
			}
		}
	}
}

// leftovers says what of ours is below a directory.
func leftovers(dir string) (left []string) {
	mounts, _ := host.Mounts()
	for _, m := range mounts {
		if host.Below(m.Point, dir) {
			left = append(left, fmt.Sprintf("mount %s (%s)", m.Point, m.Type))
		}
	}
	for _, l := range loopsOn(dir) {
		left = append(left, "loop device "+l)
	}
	for _, args := range commandLines() {
		if len(args) > 2 && filepath.Base(args[0]) == "zramfs" && host.Below(args[2], dir) {
			left = append(left, "process "+strings.Join(args, " "))
		}
	}
	return left
}

// commandLines are those of all processes, by number.
func commandLines() map[int][]string {
	lines := map[int][]string{}
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range files {
		text, _ := os.ReadFile(file)
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		lines[pid] = strings.Split(string(text), "\x00")
	}
	return lines
}

// loopsOn are the loop devices on files below a path.
func loopsOn(path string) (devices []string) {
	loops, _ := host.LoopsBelow(path)
	for _, l := range loops {
		devices = append(devices, l.Path)
	}
	return devices
}

// descriptors are this process's, with what they are.
func descriptors(t *testing.T) map[string]string {
	t.Helper()
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, n := range names {
		what, err := os.Readlink("/proc/self/fd/" + n.Name())
		if err == nil && !strings.HasPrefix(what, "anon_inode:") { // the runtime's poller
			all[n.Name()] = what
		}
	}
	return all
}
