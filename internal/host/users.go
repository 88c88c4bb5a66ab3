package host

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Users says, a sentence each, who uses one of the files, or with writing only
// who could write to it now: loop devices on it, with what uses them, swap, and
// processes that have it open. Like Holders it asks only /proc and /sys; so it sees
// what its caller may see. Processes that are excepted are not named.
func Users(files []string, writing bool, except ...int) ([]string, error) {
	var users []string
	loops, err := Loops()
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
	is := func(path string) bool { return slices.Contains(files, path) }
	for _, l := range loops {
		if ro, _ := readTrimmed(l.sys("ro")); is(l.Backing) && !(writing && ro == "1") {
			users = append(users, loopHolder(l, swaps, mounts))
		}
	}
	for _, s := range swaps {
		if is(s.Path) {
			users = append(users, "swap on "+s.Path)
		}
	}
	procs, _ := filepath.Glob("/proc/[0-9]*")
	for _, proc := range procs {
		pid, err := strconv.Atoi(filepath.Base(proc))
		if err != nil || pid == os.Getpid() || slices.Contains(except, pid) {
			continue
		}
		if path := processUses(proc, writing, is); path != "" {
			comm, _ := readTrimmed(proc, "comm")
			users = append(users, fmt.Sprintf("process %d (%s) has %s open", pid, comm, path))
		}
	}
	return users, nil
}

// processUses names the first of the files that a process has open, or "".
func processUses(proc string, writing bool, is func(string) bool) string {
	fds, _ := os.ReadDir(filepath.Join(proc, "fd"))
	for _, fd := range fds {
		target, err := os.Readlink(filepath.Join(proc, "fd", fd.Name()))
		if err != nil || !is(target) {
			continue
		}
		if !writing {
			return target
		}
		info, _ := os.ReadFile(filepath.Join(proc, "fdinfo", fd.Name()))
		for line := range strings.Lines(string(info)) {
			octal, ok := strings.CutPrefix(line, "flags:")
			if flags, err := strconv.ParseUint(strings.TrimSpace(octal), 8, 64); ok && err == nil && flags&unix.O_ACCMODE != unix.O_RDONLY {
				return target
			}
		}
	}
	return ""
}
