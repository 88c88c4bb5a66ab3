package host

import (
	"fmt"
	"os"
)

// Ending says whether every thread of a process that was killed is past its last
// instruction. To give its memory back takes the kernel a while longer. The
// process is a child that is not reaped, and has been sent SIGKILL, so that it
// makes no more threads.
func Ending(pid int) (bool, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false, fmt.Errorf("look at the threads of process %d: %w", pid, err)
	}
	process, err := parseThread(string(stat))
	if err != nil {
		return false, fmt.Errorf("look at the threads of process %d: %w", pid, err)
	}
	threads, err := Threads(pid)
	if err != nil {
		return false, fmt.Errorf("look at the threads of process %d: %w", pid, err)
	}
	if len(threads) < process.Siblings { // one that ended while the list was read can hide another
		return false, nil
	}
	for _, t := range threads {
		if t.Flags&flagExiting == 0 {
			return false, nil
		}
	}
	return true, nil
}
