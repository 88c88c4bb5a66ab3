package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/zramfs/zramfs/internal/host"
	"github.com/zramfs/zramfs/internal/keeper"
)

// nothing: no mount, loop device or process is below the script's directory, or
// of its name.
func nothing(ts *testscript.TestScript, _ bool, _ []string) {
	if left := settled(ts.Getenv("WORK"), swapPoint(ts.Getenv("NAME"))); left != nil {
		ts.Fatalf("left behind: %q", left)
	}
}

// swapPoint is where swapon mounts what has a name.
func swapPoint(name string) string { return filepath.Join(keeper.RunDir, name) }

// settled is leftovers, once a zramfs that was told to go has had a moment.
func settled(dir, point string) (left []string) {
	for range 200 {
		if left = leftovers(dir, point); left == nil {
			return nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	return left
}

// leftovers says what of ours is below a directory, or at the place of a swap.
func leftovers(dir, point string) []string {
	var left []string
	for _, dir := range []string{dir, point} {
		mounts, _ := host.Mounts()
		for _, m := range mounts {
			if host.Below(m.Point, dir) {
				left = append(left, "mount "+m.Point)
			}
		}
		loops, _ := host.LoopsBelow(dir)
		for _, l := range loops {
			left = append(left, l.Path)
		}
		left = append(left, processes(dir)...)
	}
	if _, err := os.Lstat(point); err == nil {
		left = append(left, "directory "+point)
	}
	return left
}

// processes lists keepers and workers that serve below a directory.
func processes(dir string) []string {
	var found []string
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range files {
		text, _ := os.ReadFile(file)
		args := strings.Split(string(text), "\x00")
		if len(args) > 2 && args[0] == "zramfs" && host.Below(args[2], dir) {
			found = append(found, "process "+strings.Join(args, " "))
		}
	}
	return found
}

// sweep cleans up after a script, and fails the test if there was need to.
func sweep(t *testing.T, name, dir string) {
	left := settled(dir, swapPoint(name))
	if left == nil {
		return
	}
	t.Errorf("left behind: %q", left)
	if err := clearAway(name, dir); err != nil {
		t.Error(err)
	}
}

// swapOffTime is what a swapoff of a script's few pages may take.
const swapOffTime = time.Minute

// clearAway ends what is left. Swap first, as a user would: its pages come back
// through the mount, and the machine's settings go back with it. What that
// cannot end goes by force.
func clearAway(name, dir string) (err error) {
	point := swapPoint(name)
	ctx, cancel := context.WithTimeout(context.Background(), swapOffTime)
	defer cancel()
	_ = exec.CommandContext(ctx, "zramfs", "swapoff", "--name", name, "--force").Run()
	for _, dir := range []string{dir, point} {
		loops, _ := host.LoopsBelow(dir)
		for _, l := range loops {
			_ = host.SwapOff(l.Path) // it need not be swap
			err = errors.Join(err, host.DetachLoop(l.Path))
		}
		mounts, _ := host.Mounts()
		for _, m := range mounts {
			if host.Below(m.Point, dir) {
				err = errors.Join(err, host.Unmount(m.Point, true))
			}
		}
	}
	if _, gone := os.Lstat(point); gone == nil {
		err = errors.Join(err, keeper.UndoGuards(point), os.Remove(point))
	}
	return err
}

// TestSweep: what a script leaves that failed between swapon and swapoff is no
// swap when the next test begins.
func TestSweep(t *testing.T) {
	if !host.Capable(host.CapSysAdmin) {
		t.Skip("needs root")
	}
	for _, device := range []string{"/dev/fuse", "/dev/loop-control"} {
		if _, err := os.Stat(device); err != nil {
			t.Skipf("needs %s: %v", device, err)
		}
	}
	name, dir := "test-"+strconv.Itoa(os.Getpid())+"-sweep", t.TempDir()
	out, err := exec.Command("zramfs", "swapon", "--name", name, "--size", "16M", "--segments", "2", "--priority", "0").Output()
	if err != nil {
		t.Fatal(err)
	}
	devices := strings.Fields(string(out))
	if left := leftovers(dir, swapPoint(name)); len(devices) != 2 || len(left) < 2+len(devices) {
		t.Errorf("swap on %q is seen as %q", devices, left)
	}
	if err := clearAway(name, dir); err != nil {
		t.Error(err)
	}
	swaps, err := host.Swaps()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range swaps {
		for _, d := range devices {
			if s.Path == d {
				t.Errorf("%s is swap still", d)
			}
		}
	}
	if left := settled(dir, swapPoint(name)); left != nil {
		t.Errorf("left behind: %q", left)
	}
}
