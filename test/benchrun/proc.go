package main

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/zramfs/zramfs/test/benchrun/record"
)

// ticks is USER_HZ, which is 100 wherever Go runs.
const ticks = 100

// kernelThread is PF_KTHREAD in the flags of /proc/PID/stat.
const kernelThread = 0x200000

// times are CPU times by process: of the daemons, and of the kernel's threads.
type times struct {
	daemons, kernel map[int]float64
}

// look reads the times of the processes given and of all kernel threads.
func look(pids []int) times {
	t := times{daemons: map[int]float64{}, kernel: map[int]float64{}}
	for _, pid := range pids {
		if s, _, ok := stat(filepath.Join("/proc", strconv.Itoa(pid), "stat")); ok {
			t.daemons[pid] = s
		}
	}
	files, _ := filepath.Glob("/proc/[0-9]*/stat") // the pattern is sound
	for _, file := range files {
		if s, flags, ok := stat(file); ok && flags&kernelThread != 0 {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			t.kernel[pid] = s
		}
	}
	return t
}

// since is what was used from before to t. Who ended meanwhile is not counted.
func (t times) since(before times) record.CPU {
	sum := func(now, then map[int]float64) (s float64) {
		for pid, v := range now {
			s += max(0, v-then[pid])
		}
		return s
	}
	return record.CPU{Daemon: sum(t.daemons, before.daemons), Kernel: sum(t.kernel, before.kernel)}
}

// stat reads seconds of CPU time and the flags of a process.
func stat(file string) (seconds float64, flags uint64, ok bool) {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, 0, false
	}
	return parseStat(string(text))
}

// parseStat reads fields 9, 14 and 15 of proc_pid_stat(5). The name before
// them may hold spaces and parentheses.
func parseStat(text string) (seconds float64, flags uint64, ok bool) {
	end := strings.LastIndexByte(text, ')')
	f := strings.Fields(text[end+1:])
	if end < 0 || len(f) < 13 {
		return 0, 0, false
	}
	flags, err := strconv.ParseUint(f[6], 10, 64)
	user, err1 := strconv.ParseFloat(f[11], 64)
	system, err2 := strconv.ParseFloat(f[12], 64)
	return (user + system) / ticks, flags, err == nil && err1 == nil && err2 == nil
}
