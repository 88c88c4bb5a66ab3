package main

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// scenario is what happens in a guest: parameters for its PID 1, and what its
// end must look like.
type scenario struct {
	name   string
	about  string
	params map[string]string
	ends   string        // of eaters: "killed", "whole", "signal 7", or several with |
	stall  time.Duration // eaters may stand still so long beyond maxGap
	events int           // that must happen
	errors bool          // the kernel may see errors on the swap device
	reads  bool          // statistics are read all the time, and must be there
	disk   []string      // what must be read of a disk that is no swap, and how: judgeDisk
	runs   int           // of each size, in the matrix
}

func (s scenario) mayEnd(end string) bool { return slices.Contains(strings.Split(s.ends, "|"), end) }

// serves says whether a zramfs must still answer at the end.
func (s scenario) serves() bool { return !s.errors && s.params["SWAP"] != "zram" }

// scenarios is all there are. EAT, TURN and SHRINK are percent of the memory
// that is available before there is swap. Where swap is lost on purpose, the
// root is a ramfs: on a tmpfs the commands that clean up would be lost with it.
func scenarios() []scenario {
	const bar, others, few = 10, 5, 2
	type p = map[string]string
	return []scenario{
		{name: "eater", about: "one eater, until the OOM killer takes it", ends: "killed", runs: others},
		{name: "start", about: "four eaters begin to swap at once",
			params: p{"EATERS": "4", "EAT": "130", "SECONDS": "5"}, ends: "whole", runs: bar},
		{name: "full", about: "the store fills with data that does not compress",
			params: p{"TURN": "110"}, ends: "killed", runs: bar},
		{name: "stop", about: "the worker is stopped for 20 s",
			params: p{"EAT": "130", "SECONDS": "25", "EVENTS": "stop"}, ends: "whole", stall: 21 * time.Second, events: 2, runs: others},
		{name: "stop-storm", about: "four eaters, and the worker is stopped for 30 s",
			params: p{"EATERS": "4", "EAT": "130", "SECONDS": "35", "EVENTS": "stop", "STOP_SECONDS": "30"},
			ends:   "whole", stall: 31 * time.Second, events: 2, runs: others},
		{name: "equal", about: "an eater whom the OOM killer has no reason to prefer",
			params: p{"SCORE": "0"}, ends: "killed", runs: others},
		{name: "kill-worker", about: "kill -9 of the worker, five times",
			params: p{"EAT": "130", "SECONDS": "15", "EVENTS": "kill-worker", "EVENT_COUNT": "5"}, ends: "whole", events: 5, runs: others},
		{name: "kill-keeper", about: "kill -9 of the keeper, three times",
			params: p{"EAT": "130", "SECONDS": "15", "EVENTS": "kill-keeper", "EVENT_COUNT": "3", "EVENT_GAP": "4000"},
			ends:   "whole", events: 3, runs: others},
		{name: "kill-both", about: "keeper and worker killed together, twice",
			params: p{"EAT": "130", "SECONDS": "10", "EVENTS": "kill-both", "EVENT_COUNT": "2", "EVENT_GAP": "4000"},
			ends:   "whole", events: 2, runs: others},
		{name: "kill-all", about: "the standby with them: errors, but the machine lives",
			params: p{"EAT": "130", "SECONDS": "5", "EVENTS": "kill-all", "rootfstype": "ramfs"}, ends: "signal 7|killed", events: 1, errors: true, runs: others},
		{name: "upgrade", about: "zramfs upgrade to the same binary, twice",
			params: p{"EAT": "130", "SECONDS": "15", "EVENTS": "upgrade", "EVENT_COUNT": "2", "EVENT_GAP": "3000"},
			ends:   "whole", events: 2, runs: others},
		{name: "replaced", about: "worker killed, upgraded, keeper killed, one after another",
			params: p{"EAT": "130", "SECONDS": "15", "EVENTS": "kill-worker+upgrade+kill-keeper+kill-worker"},
			ends:   "whole", events: 4, runs: others},
		{name: "again", about: "swapoff while pages are in swap, and again, twice over",
			params: p{"EAT": "130", "SECONDS": "3", "SHRINK": "40", "CYCLES": "2"}, ends: "whole", events: 4, runs: others},
		{name: "storm", about: "programs are started as fast as it goes",
			params: p{"EAT": "130", "SECONDS": "12", "EVENTS": "storm"}, ends: "whole|killed", events: 1, runs: others},
		{name: "curious", about: "statistics and status are read every 50 ms, until the OOM killer takes the eater",
			params: p{"EVENTS": "curious", "EVENT_AT": "1"}, ends: "killed", events: 1, reads: true, runs: others},
		{name: "nbd", about: "no swap: a disk whose cold pages lie on a network block device",
			params: p{"SWAP": "disk"}, ends: "whole", events: 3, disk: []string{"end all whole"}, runs: few},
		{name: "nbd-stall", about: "its server is stopped while pages are read, those in RAM too, and goes on",
			params: p{"SWAP": "disk", "SERVER": "stall"}, ends: "whole", events: 6,
			disk: []string{"stalled ram prompt", "stalled away waits", "after ram prompt", "after away whole", "end all whole"}, runs: few},
		{name: "nbd-gone", about: "its server is killed",
			params: p{"SWAP": "disk", "SERVER": "kill"}, ends: "whole", events: 6,
			disk: []string{"gone ram prompt", "gone away lost", "end all whole"}, runs: few},
		{name: "nbd-silent", about: "its server is stopped for good: the kernel gives it up after 5 s",
			params: p{"SWAP": "disk", "SERVER": "stop", "NBD_TIMEOUT": "5"}, ends: "whole", events: 6,
			disk: []string{"gone ram prompt", "gone away lost", "end all whole"}, runs: few},
		{name: "nbd-leave", about: "its server is stopped, and the disk is given up while a pass writes back to it",
			params: p{"SWAP": "disk", "SERVER": "leave", "NBD_TIMEOUT": "15"}, ends: "whole", events: 5,
			disk: []string{"passing ram prompt", "end all whole"}, runs: few},
		{name: "zram", about: "kernel zram with lz4 and the same vm.* settings, for the ratio",
			params: p{"SWAP": "zram"}, ends: "killed", runs: 1},
		{name: "no-resend", about: "an older kernel, where a worker's death ends the mount",
			params: p{"EAT": "130", "SECONDS": "5", "EVENTS": "kill-worker", "rootfstype": "ramfs"}, ends: "signal 7|killed", events: 1, errors: true, runs: 1},
	}
}

func findScenario(name string) (scenario, error) {
	var names []string
	for _, s := range scenarios() {
		if s.name == name {
			return s, nil
		}
		names = append(names, s.name)
	}
	return scenario{}, fmt.Errorf("no scenario %q: there are %s", name, strings.Join(names, ", "))
}

// cell is one guest to be run.
type cell struct {
	Scenario string            `json:"scenario"`
	Kernel   string            `json:"kernel"`
	Memory   int               `json:"memory"` // MiB
	CPUs     int               `json:"cpus"`
	MGLRU    int               `json:"mglru"`  // 0 or 1
	Cgroup   int               `json:"cgroup"` // version mounted, 0: none
	Without  string            `json:"without,omitempty"`
	Run      int               `json:"run"`
	Set      map[string]string `json:"set,omitempty"` // by hand
}

// key names the cell's files.
func (c cell) key() string {
	parts := []string{c.Scenario, c.Kernel, strconv.Itoa(c.Memory) + "M", strconv.Itoa(c.CPUs) + "cpu",
		"lru" + strconv.Itoa(c.MGLRU), "cg" + strconv.Itoa(c.Cgroup)}
	if c.Without != "" {
		parts = append(parts, "without-"+strings.ReplaceAll(c.Without, ",", "+"))
	}
	return strings.Join(append(parts, "run"+strconv.Itoa(c.Run)), "_")
}

// params are the words on the guest's command line. same is what vm.* was in
// a guest of this size with zramfs, for those without.
func (c cell) params(s scenario, same map[string]string) map[string]string {
	p := map[string]string{
		"SWAP":   "zramfs",
		"DISK":   strconv.Itoa(4 * c.Memory),
		"MGLRU":  strconv.Itoa(c.MGLRU),
		"CGROUP": strconv.Itoa(c.Cgroup),
		"SEED":   strconv.Itoa(c.Run),
		"SWAPON": "", // as large as swapon finds right
	}
	if c.Without != "" {
		p["SWAPON"] = "--without " + c.Without
	}
	if s.params["SWAP"] == "zram" {
		var set []string
		for _, k := range []string{"min_free_kbytes", "watermark_boost_factor", "watermark_scale_factor", "page-cluster", "swappiness"} {
			if v := same[k]; v != "" {
				set = append(set, "vm."+k+"="+v)
			}
		}
		p["SYSCTL"] = strings.Join(set, " ")
	}
	maps.Copy(p, s.params)
	maps.Copy(p, c.Set)
	return p
}

// short are the cells of make test: what only a small machine can show, or one
// with a kernel's network disk.
func short() []cell {
	small := cell{Kernel: newest, Memory: 192, CPUs: 1, MGLRU: 0, Cgroup: 0, Run: 1}
	usual := cell{Kernel: newest, Memory: 256, CPUs: 2, MGLRU: 1, Cgroup: 2, Run: 1}
	with := func(c cell, name string) cell { c.Scenario = name; return c }
	return []cell{with(usual, "start"), with(small, "eater"), with(usual, "full"), with(usual, "replaced"), with(usual, "nbd-gone")}
}

// Kernels, by the names that scripts/vm-kernel.sh knows.
const (
	newest  = "6.12" // the oldest long-term kernel with RESEND
	ancient = "6.1"  // without
)

// matrix is every scenario in every size, all of it once before any of it again.
// Number of CPUs, the kernel's way to choose pages, and cgroups go through all
// their values from run to run.
func matrix() []cell {
	var cells []cell
	for run := range slices.MaxFunc(scenarios(), func(a, b scenario) int { return a.runs - b.runs }).runs {
		for _, s := range scenarios() {
			for _, memory := range []int{256, 128, 512, 192} {
				kernel, runs := newest, s.runs
				if s.name == "no-resend" {
					kernel = ancient
				}
				if memory == 192 {
					runs = 1
				}
				if run < runs {
					cells = append(cells, cell{Scenario: s.name, Kernel: kernel, Memory: memory, CPUs: []int{2, 1, 4}[run%3],
						MGLRU: (run + 1) % 2, Cgroup: []int{2, 2, 0}[run%3], Run: run + 1})
				}
			}
		}
	}
	return cells
}

// worth lists the guards whose worth a guest can show: those that may be left
// out, and are more than a look at the machine.
func worth() []string {
	return []string{"locked", "tables", "reserve", "upkeep", "io-flusher", "oom-score", "heap", "standby", "watermark-boost", "min-free",
		"in-flight", "stable-writes", "wbt", "discard", "warm", "kworkers", "watchdog"}
}

// ablation is these guards off, one by one, where small machines were lost.
// Without them guests may fail: it tells how many do, beside those with all.
func ablation(guards []string) []cell {
	var cells []cell
	for run := range 3 {
		for _, without := range append([]string{""}, guards...) {
			for _, c := range []cell{{Scenario: "start", Memory: 256, CPUs: 2}, {Scenario: "full", Memory: 256, CPUs: 2},
				{Scenario: "equal", Memory: 192, CPUs: 1}} {
				c.Kernel, c.MGLRU, c.Cgroup, c.Without, c.Run = newest, (run+1)%2, 2, without, run+1
				cells = append(cells, c)
			}
		}
	}
	return cells
}
