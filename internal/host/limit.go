package host

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// cgroupLimit is a file of a cgroup that can hold up its processes.
type cgroupLimit struct {
	file string
	held func(value string) bool // the value does
}

func limited(value string) bool { return value != "" && value != "max" && value != "-1" }

// limitedV1 knows the number that version 1 shows for "no limit": the largest
// multiple of a page.
func limitedV1(value string) bool {
	n, err := strconv.ParseUint(value, 10, 64)
	return err == nil && n < math.MaxInt64&^0xffff
}

func frozen(value string) bool { return value != "0" && value != "THAWED" && value != "" }

// quota reads cpu.max: "max 100000", or a number of microseconds first.
func quota(value string) bool { return value != "" && !strings.HasPrefix(value, "max") }

// cgroupLimits is what may hold up a process, by the controllers of
// version 1, or "" for version 2. memory.swap.max is not among them: not to
// be swapped is what a daemon wants.
func cgroupLimits() map[string][]cgroupLimit {
	return map[string][]cgroupLimit{
		"": {
			{"memory.max", limited}, {"memory.high", limited}, {"memory.swap.high", limited},
			{"cpu.max", quota}, {"cgroup.freeze", frozen},
		},
		"memory":  {{"memory.limit_in_bytes", limitedV1}, {"memory.memsw.limit_in_bytes", limitedV1}},
		"cpu":     {{"cpu.cfs_quota_us", limited}},
		"freezer": {{"freezer.state", frozen}},
	}
}

// CgroupLimits says, "file: value" each, what limits or freezes a process in
// its cgroups and those above them, as far as they can be seen from here.
func CgroupLimits(pid int) ([]string, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return nil, fmt.Errorf("read cgroup: %w", err)
	}
	mounts, err := Mounts()
	if err != nil {
		return nil, err
	}
	roots := cgroupRoots(mounts)
	limits := cgroupLimits()
	var found []string
	for controller, path := range parseCgroups(string(text)) {
		root, ok := roots[controller]
		if !ok {
			continue
		}
		for dir := filepath.Join(root, path); Below(dir, root); dir = filepath.Dir(dir) {
			for _, l := range limits[controller] {
				value, err := readTrimmed(dir, l.file)
				if errors.Is(err, fs.ErrNotExist) {
					continue // the root has none
				}
				if err != nil {
					return nil, fmt.Errorf("read cgroup limit: %w", err)
				}
				if l.held(value) {
					found = append(found, filepath.Join(dir, l.file)+": "+value)
				}
			}
			if dir == root {
				break
			}
		}
	}
	return found, nil
}

// parseCgroups gives the path by controller, "" for version 2.
func parseCgroups(text string) map[string]string {
	paths := map[string]string{}
	for line := range strings.Lines(text) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) != 3 {
			continue
		}
		for controller := range strings.SplitSeq(f[1], ",") {
			paths[controller] = f[2]
		}
	}
	return paths
}

// cgroupRoots finds where the hierarchies are mounted. Those of version 1 are
// told apart by what they hold, which needs no reading of mount options.
func cgroupRoots(mounts []Mount) map[string]string {
	roots := map[string]string{}
	for _, m := range mounts {
		switch m.Type {
		case "cgroup2":
			roots[""] = m.Point
		case "cgroup":
			for controller, file := range map[string]string{
				"memory": "memory.usage_in_bytes", "cpu": "cpu.shares", "freezer": "cgroup.procs",
			} {
				_, err := os.Stat(filepath.Join(m.Point, file))
				if err == nil && (controller != "freezer" || strings.Contains(filepath.Base(m.Point), controller)) {
					roots[controller] = m.Point
				}
			}
		}
	}
	return roots
}
