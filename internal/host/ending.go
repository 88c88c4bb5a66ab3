package host

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// taskExiting is PF_EXITING: the task has left its program and its system calls
// for good, has no I/O under way in rings of its own, and only takes itself apart.
const taskExiting = 0x4

// Ending says whether every thread of a process that was killed is past its last
// instruction. To give its memory back takes the kernel a while longer. The
// process is a child that is not reaped, and has been sent SIGKILL, so that it
// makes no more threads.
func Ending(pid int) (bool, error) {
	dir := fmt.Sprintf("/proc/%d", pid)
	threads, err := taskField(dir, 17)
	if err != nil {
		return false, fmt.Errorf("look at the threads of process %d: %w", pid, err)
	}
	tasks, err := os.ReadDir(dir + "/task")
	if err != nil {
		return false, fmt.Errorf("look at the threads of process %d: %w", pid, err)
	}
	if int64(len(tasks)) < threads { // one that ended while the list was read can hide another
		return false, nil
	}
	for _, t := range tasks {
		flags, err := taskField(dir+"/task/"+t.Name(), 6)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue
		}
		if err != nil {
			return false, fmt.Errorf("look at the threads of process %d: %w", pid, err)
		}
		if flags&taskExiting == 0 {
			return false, nil
		}
	}
	return true, nil
}

// taskField reads the n-th number of a stat file after the program's name, from
// 0: proc(5) calls it field n+3.
func taskField(dir string, n int) (int64, error) {
	text, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return 0, err
	}
	f := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
	if n >= len(f) {
		return 0, fmt.Errorf("read %s/stat: field %d is missing", dir, n+3)
	}
	return strconv.ParseInt(string(f[n]), 10, 64)
}
