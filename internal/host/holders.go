package host

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Holders says, a sentence each, who keeps the mount at dir busy: swap and
// file systems on loop devices on it, the loop devices, mounts in it, and
// processes with open files, a working directory or a root there. It asks
// only /proc and /sys, never the mount itself, which may be stuck. Processes
// that are excepted are not named.
func Holders(dir string, except ...int) ([]string, error) {
	var holders []string
	loops, err := LoopsBelow(dir)
	if err != nil {
		return nil, err
	}
	swaps, err := Swaps()
	if err != nil {
		return nil, err
	}
	mounts, err := Mounts()
	if err != nil {
		return nil, err
	}
	for _, l := range loops {
		holders = append(holders, loopHolder(l, swaps, mounts))
	}
	for _, m := range mounts {
		if m.Point != dir && Below(m.Point, dir) {
			holders = append(holders, "mount "+m.Point)
		}
	}
	return append(holders, processHolders(dir, except)...), nil
}

func loopHolder(l Loop, swaps []Swap, mounts []Mount) string {
	for _, s := range swaps {
		if s.Path == l.Path {
			return fmt.Sprintf("swap on %s (%d KiB used)", l.Path, s.Used>>10)
		}
	}
	for _, m := range mounts {
		if m.Source == l.Path {
			return fmt.Sprintf("loop device %s (mounted on %s)", l.Path, m.Point)
		}
	}
	return "loop device " + l.Path
}

func processHolders(dir string, except []int) []string {
	links, _ := filepath.Glob("/proc/[0-9]*")
	var holders []string
	for _, proc := range links {
		pid, err := strconv.Atoi(filepath.Base(proc))
		if err != nil || pid == os.Getpid() || slices.Contains(except, pid) {
			continue
		}
		if what := processHolds(proc, dir); what != "" {
			comm, _ := readTrimmed(proc, "comm")
			holders = append(holders, fmt.Sprintf("process %d (%s): %s", pid, comm, what))
		}
	}
	return holders
}

// processHolds names the first thing in dir that a process holds, or "".
func processHolds(proc, dir string) string {
	for _, link := range []struct{ file, word string }{{"cwd", "working directory"}, {"root", "root"}, {"exe", "program"}} {
		if target, err := os.Readlink(filepath.Join(proc, link.file)); err == nil && dir != "/" && Below(target, dir) {
			return link.word + " " + target
		}
	}
	fds, _ := os.ReadDir(filepath.Join(proc, "fd"))
	for _, fd := range fds {
		target, err := os.Readlink(filepath.Join(proc, "fd", fd.Name()))
		if err == nil && Below(target, dir) {
			return "open file " + target
		}
	}
	// A file that is mapped and closed is in no descriptor.
	maps, _ := os.ReadFile(filepath.Join(proc, "maps"))
	for line := range strings.Lines(string(maps)) {
		if i := strings.IndexByte(line, '/'); i >= 0 {
			if path := unescape(strings.TrimRight(line[i:], "\n")); Below(path, dir) {
				return "mapped file " + path
			}
		}
	}
	return ""
}
