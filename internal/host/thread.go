package host

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Thread is a thread as its /proc stat line tells it.
type Thread struct {
	ID          int
	Parent      int    // process that its process is a child of
	Flags       uint64 // PF_ flags
	Policy      int    // SCHED_OTHER, SCHED_BATCH, SCHED_FIFO, ...
	Priority    int    // of SCHED_FIFO and SCHED_RR
	Nice        int    // of the others
	MinorFaults int64
	MajorFaults int64
	Siblings    int // threads of its process, itself among them
}

// Task flags, linux/sched.h.
const (
	flagKernelThread = 0x00200000 // PF_KTHREAD
	// What PR_SET_IO_FLUSHER sets: PF_MEMALLOC_NOIO and PF_LOCAL_THROTTLE.
	flagsFlusher = 0x00180000
	// PF_EXITING: the task has left its program and its system calls for good,
	// has no I/O under way in rings of its own, and only takes itself apart.
	flagExiting = 0x00000004
)

// Urgent says whether an Urgency is at work on the thread.
func (t Thread) Urgent() bool { return t.Policy == unix.SCHED_FIFO || t.Nice == fairNice }

// Flushing says whether the thread carries the flags of PR_SET_IO_FLUSHER.
func (t Thread) Flushing() bool { return t.Flags&flagsFlusher == flagsFlusher }

// parseThread reads a /proc stat line. The second field is the command in
// parentheses, and may hold anything.
func parseThread(stat string) (Thread, error) {
	bad := fmt.Errorf("parse thread in %q", stat)
	end := strings.LastIndexByte(stat, ')')
	id, err := strconv.Atoi(strings.TrimSpace(strings.SplitN(stat, "(", 2)[0]))
	if end < 0 || err != nil {
		return Thread{}, bad
	}
	f := strings.Fields(stat[end+1:]) // f[0] is field 3
	if len(f) < 39 {
		return Thread{}, bad
	}
	field := func(n int) int64 {
		v, ferr := strconv.ParseInt(f[n-3], 10, 64)
		err = errors.Join(err, ferr)
		return v
	}
	t := Thread{
		ID:          id,
		Parent:      int(field(4)),
		Flags:       uint64(field(9)),
		MinorFaults: field(10),
		MajorFaults: field(12),
		Siblings:    int(field(20)),
		Priority:    int(field(40)),
		Nice:        int(field(19)),
		Policy:      int(field(41)),
	}
	if err != nil {
		return Thread{}, bad
	}
	return t, nil
}

// Threads lists the threads of a process.
func Threads(pid int) ([]Thread, error) {
	dir := fmt.Sprintf("/proc/%d/task", pid)
	tasks, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list threads: %w", err)
	}
	var threads []Thread
	for _, task := range tasks {
		stat, err := os.ReadFile(filepath.Join(dir, task.Name(), "stat"))
		if err != nil {
			continue // ended meanwhile
		}
		t, err := parseThread(string(stat))
		if err != nil {
			return nil, err
		}
		threads = append(threads, t)
	}
	return threads, nil
}

// ThreadsFlushing counts the threads of a process, and those of them that
// carry the flags of PR_SET_IO_FLUSHER. The prctl is not trusted: other
// daemons are known to have cleared the flag by it.
func ThreadsFlushing(pid int) (threads, flushing int, err error) {
	list, err := Threads(pid)
	for _, t := range list {
		if t.Flushing() {
			flushing++
		}
	}
	return len(list), flushing, err
}

// Children lists the child processes of a process.
func Children(pid int) ([]int, error) {
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var children []int
	for _, file := range files {
		stat, err := os.ReadFile(file)
		if err != nil {
			continue // ended meanwhile
		}
		if t, err := parseThread(string(stat)); err == nil && t.Parent == pid {
			children = append(children, t.ID)
		}
	}
	return children, nil
}

// OpenFiles counts the descriptors of a process that are open on a file.
func OpenFiles(pid int, path string) (int, error) {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0, fmt.Errorf("list open files: %w", err)
	}
	n := 0
	for _, e := range entries {
		target, err := os.Readlink(filepath.Join(dir, e.Name()))
		if errors.Is(err, fs.ErrPermission) {
			return 0, fmt.Errorf("look at open files, which needs CAP_SYS_PTRACE: %w", err)
		}
		if err == nil && target == path {
			n++
		}
	}
	return n, nil
}

// Kworker is a thread of the kernel that works for unbound work queues.
type Kworker struct {
	PID    int
	Pool   string // u8 of kworker/u8:3-loop0
	Serves string // the work queue of its last work: loop0
	Policy int
}

// Kworkers lists the kernel's unbound workers.
func Kworkers() ([]Kworker, error) {
	files, err := filepath.Glob("/proc/[0-9]*/comm")
	if err != nil {
		return nil, fmt.Errorf("list kworkers: %w", err)
	}
	var workers []Kworker
	for _, file := range files {
		comm, err := os.ReadFile(file)
		if err != nil {
			continue // ended meanwhile
		}
		w, ok := parseKworker(strings.TrimSpace(string(comm)))
		if !ok {
			continue
		}
		// A name proves nothing: any process may take it.
		stat, err := os.ReadFile(filepath.Join(filepath.Dir(file), "stat"))
		if err != nil {
			continue
		}
		t, err := parseThread(string(stat))
		if err != nil || t.Flags&flagKernelThread == 0 {
			continue
		}
		w.PID, w.Policy = t.ID, t.Policy
		workers = append(workers, w)
	}
	return workers, nil
}

func parseKworker(comm string) (Kworker, bool) {
	rest, ok := strings.CutPrefix(comm, "kworker/u")
	pool, rest, found := strings.Cut(rest, ":")
	if _, err := strconv.Atoi(pool); !ok || !found || err != nil {
		return Kworker{}, false
	}
	_, serves, _ := strings.Cut(strings.Replace(rest, "+", "-", 1), "-")
	return Kworker{Pool: "u" + pool, Serves: serves}, true
}

// SetPolicy gives a thread a scheduling policy; priority is for SCHED_FIFO.
func SetPolicy(tid, policy, priority int) error {
	attr := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: uint32(policy), Priority: uint32(priority)}
	if err := unix.SchedSetAttr(tid, &attr, 0); err != nil {
		return fmt.Errorf("schedule thread %d: %w", tid, err)
	}
	return nil
}

// MayBeUrgent says whether this process could give a thread SCHED_FIFO: some
// cgroups grant it to nobody, whatever the capabilities.
func MayBeUrgent() bool {
	granted := make(chan bool)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		granted <- SetPolicy(0, unix.SCHED_FIFO, 1) == nil
	}()
	return <-granted
}

// Urgency gives a thread first place on its CPU: SCHED_FIFO, or, where memory is
// so short that looking for it would keep the CPU from those who free it, a share
// of the CPU like that of others. It never changes, so threads
// may share one, and allocates nothing.
//
// Not SCHED_DEADLINE, which has a bound and the same reserves of memory as
// SCHED_FIFO: a thread that had used up its time was never run again, on a CPU
// that was idle (Linux 6.12, two CPUs: runnable and throttled for 14 minutes).
type Urgency struct {
	least       uint64 // immutable; bytes
	first, fair unix.SchedAttr
}

// NewUrgency makes one for which memory is short when fewer bytes are free.
func NewUrgency(least int64) *Urgency {
	return &Urgency{
		least: uint64(least),
		first: unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: 1},
		fair:  unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_NORMAL, Nice: fairNice},
	}
}

// fairNice is little more than what others have, and by it the thread is known.
// With more, on one CPU, whoever would have freed memory did not run.
const fairNice = -1

// Apply makes the calling thread urgent, as far as that is granted; taking: it is
// about to take memory.
func (u *Urgency) Apply(taking bool) {
	attr := &u.first
	if taking && freeMemory() < u.least {
		attr = &u.fair
	}
	_ = unix.SchedSetAttr(0, attr, 0)
}

// freeMemory is the memory that nobody uses, in bytes.
func freeMemory() uint64 {
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) != nil {
		return 0
	}
	return info.Freeram * uint64(info.Unit)
}
