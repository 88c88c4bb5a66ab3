package host

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// SetOOMScore sets the own oom_score_adj, -1000 (never) to 1000. Lowering it
// takes CAP_SYS_RESOURCE.
func SetOOMScore(score int) error {
	return writeValue("/proc/self/oom_score_adj", strconv.Itoa(score))
}

// SetOOMScoreOf is SetOOMScore for another process.
func SetOOMScoreOf(pid, score int) error {
	return writeValue(fmt.Sprintf("/proc/%d/oom_score_adj", pid), strconv.Itoa(score))
}

// OOMScore reads the oom_score_adj of a process.
func OOMScore(pid int) (int, error) {
	text, err := readTrimmed("/proc", strconv.Itoa(pid), "oom_score_adj")
	if err != nil {
		return 0, fmt.Errorf("read oom score: %w", err)
	}
	return strconv.Atoi(text)
}

// SetIOFlusher marks the calling thread as one that memory reclaim may wait
// for (PR_SET_IO_FLUSHER). Only this thread and what it starts get the flag,
// so the caller locks the thread and execs. It takes CAP_SYS_RESOURCE.
func SetIOFlusher() error {
	if err := unix.Prctl(unix.PR_SET_IO_FLUSHER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("set io flusher: %w", err)
	}
	return nil
}

// PageFaults counts the page faults of this process, of all its threads.
func PageFaults() int64 {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0 // it has no reason to
	}
	return u.Minflt + u.Majflt
}

// NoHugePages has this process, its children and what they exec take private
// memory page by page.
func NoHugePages() error {
	if err := unix.Prctl(unix.PR_SET_THP_DISABLE, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("set no huge pages: %w", err)
	}
	return nil
}

// Undumpable keeps the contents of this process out of core files and away
// from debuggers of the same user.
func Undumpable() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("set undumpable: %w", err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("set core limit: %w", err)
	}
	return nil
}

// LockMemory locks all present and future memory of this process, pages of
// new mappings as they are touched. It is not inherited and is lost by exec.
// With a limit on locked memory it does not try: under one, a later mapping
// would fail, and the Go runtime dies of that.
func LockMemory() error {
	if !Capable(CapIPCLock) {
		var limit unix.Rlimit
		if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &limit); err != nil {
			return fmt.Errorf("lock memory: %w", err)
		}
		if limit.Cur != unix.RLIM_INFINITY {
			return fmt.Errorf("lock memory: no CAP_IPC_LOCK, and the limit (ulimit -l) is %d KiB: %w",
				limit.Cur>>10, unix.EPERM)
		}
	}
	if err := unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | unix.MCL_ONFAULT); err != nil {
		return fmt.Errorf("lock memory: %w", err)
	}
	return nil
}

// Memory is what a process occupies, in bytes, from its /proc status.
type Memory struct {
	Resident int64
	Shared   int64 // of it, shared memory: the regions
	Locked   int64 // of the address space, resident or not
	Swapped  int64
	Threads  int64
}

// ProcessMemory tells what a process occupies.
func ProcessMemory(pid int) (Memory, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return Memory{}, fmt.Errorf("read process memory: %w", err)
	}
	return parseMemory(text), nil
}

func parseMemory(status []byte) Memory {
	var m Memory
	for line := range bytes.Lines(status) {
		key, rest, ok := bytes.Cut(line, []byte(":"))
		if !ok {
			continue
		}
		f := bytes.Fields(rest)
		if len(f) == 0 {
			continue
		}
		n, err := strconv.ParseInt(string(f[0]), 10, 64)
		if err != nil {
			continue
		}
		switch string(key) {
		case "VmRSS":
			m.Resident = n << 10
		case "RssShmem":
			m.Shared = n << 10
		case "VmLck":
			m.Locked = n << 10
		case "VmSwap":
			m.Swapped = n << 10
		case "Threads":
			m.Threads = n
		}
	}
	return m
}

// TotalMemory is the machine's memory in bytes.
func TotalMemory() (int64, error) {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 0, fmt.Errorf("read memory size: %w", err)
	}
	return int64(info.Totalram) * int64(info.Unit), nil
}

// Watch opens a descriptor of a process that tells when it is gone, nil if it
// is gone already.
func Watch(pid int) (*os.File, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("watch process %d: %w", pid, err)
	}
	return os.NewFile(uintptr(fd), "pidfd"), nil
}

// Gone waits until a watched process has ended, at most so many milliseconds,
// and says whether it has. A nil file means that it is gone.
func Gone(pidfd *os.File, milliseconds int) bool {
	if pidfd == nil {
		return true
	}
	for {
		fds := []unix.PollFd{{Fd: int32(pidfd.Fd()), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, milliseconds)
		if !errors.Is(err, unix.EINTR) {
			return err == nil && n == 1
		}
	}
}

// CPUTime is how much CPU time all threads of a process have taken, in ns; 0 if
// there is no such process. It takes no memory.
func CPUTime(pid int) int64 {
	const scheduler = 2 // CPUCLOCK_SCHED of linux/posix-timers.h
	var t unix.Timespec
	if pid <= 0 || unix.ClockGettime(int32(^pid<<3|scheduler), &t) != nil {
		return 0
	}
	return t.Nano()
}
