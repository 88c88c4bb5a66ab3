package keeper

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zramfs/zramfs/internal/fuseconn"
	"github.com/zramfs/zramfs/internal/host"
)

// event is what a worker said, or its end, which is its last.
type event struct {
	p      *process
	m      message
	files  []*os.File // came along; the receiver's
	gone   bool       // it has ended and is reaped
	ending bool       // it was killed, and does nothing any more but end
	paused bool       // its listener stopped, as it was asked to
}

// stage is how far a worker has come.
type stage int

const (
	started    stage = iota
	configured       // it said hello and was given everything
	prepared         // it has mapped everything and waits
	going            // it was told to serve
	serving
)

// process is a worker, as the keeper sees it. The fields below the line belong
// to the keeper's goroutine.
type process struct {
	pid     int
	pidfd   *os.File
	control *control
	words   *os.File // memory file: what it wrote to stderr; nil: a worker of a dead keeper
	status  death    // valid once it is gone

	over chan struct{} // closed when it is seen gone

	// ----
	stage    stage
	served   bool      // it once came to stage serving
	went     time.Time // when it was told to serve
	failed   error     // what it said was wrong
	hello    hello     // from stage configured on
	checked  bool      // it has looked at what it took over; failed if that was not sound
	killed   string    // why we killed it; "": we did not
	killedAt int64     // and when, CLOCK_MONOTONIC
	paused   bool      // nobody listens
	replaced bool      // its end is dealt with, though it may not be gone
}

// death is how a process ended.
type death struct {
	clean bool   // status 0
	fault bool   // of its own doing: a signal for a fault, or a panic
	slain bool   // by SIGKILL: it had no part in it
	text  string // its status, and what it said
	line  string // what it said first
}

// assignment is everything that a worker is told at its start.
type assignment struct {
	Config   Config          `json:"config"`
	Device   string          `json:"device,omitempty"` // of the mount; "" when the worker mounts
	Notes    []string        `json:"notes,omitempty"`
	InCgroup bool            `json:"in_cgroup,omitempty"`
	Locked   bool            `json:"locked"`
	Flusher  bool            `json:"flusher"`
	OOMScore int             `json:"oom_score"`
	CPUs     []int           `json:"cpus,omitempty"`  // where readers run; none: the worker mounts
	Layout   fuseconn.Layout `json:"layout,omitzero"` // of the request buffers
	Roles    []string        `json:"roles"`           // of the descriptors that come along
	Regions  int             `json:"regions"`         // that follow, each in a message
	Keeper   int             `json:"keeper"`          // process number
}

// order tells a worker to serve.
type order struct {
	Generation int  `json:"generation"`
	Resume     bool `json:"resume"` // another worker served before it
	Fault      bool `json:"fault"`  // and died by a fault
	Verify     bool `json:"verify"` // say whether what it took over is sound
}

const (
	controlFD   = 3 // of a worker
	endingPause = 500 * time.Microsecond
)

// spawn starts a worker. program is what it runs, nil for what this process
// runs.
func spawn(program *os.File, point string) (*process, error) {
	ctl, theirs, err := controlPair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	fd, err := unix.MemfdCreate("zramfs-words", unix.MFD_CLOEXEC)
	if err != nil {
		ctl.close()
		return nil, fmt.Errorf("start worker: %w", err)
	}
	p := &process{
		control: ctl,
		words:   os.NewFile(uintptr(fd), "words"),
		over:    make(chan struct{}),
	}
	path := "/proc/self/exe"
	if program != nil {
		path = fmt.Sprintf("/proc/self/fd/%d", program.Fd())
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err == nil {
		defer null.Close()
		// A session of its own: the terminal's Ctrl-C is for the keeper, which
		// decides whether the mount can end.
		p.pid, err = syscall.ForkExec(path, []string{"zramfs", "worker", point}, &syscall.ProcAttr{
			Dir:   "/",
			Env:   workerEnv(os.Environ()),
			Files: []uintptr{null.Fd(), null.Fd(), p.words.Fd(), theirs.Fd()},
			Sys:   &syscall.SysProcAttr{Setsid: true},
		})
	}
	if err == nil {
		if p.pidfd, err = host.Watch(p.pid); err != nil {
			_ = unix.Kill(p.pid, unix.SIGKILL) // not reaped yet, so it is ours
			_, _ = unix.Wait4(p.pid, nil, 0, nil)
		}
	}
	if err != nil {
		ctl.close()
		p.words.Close()
		return nil, fmt.Errorf("start worker: %w", err)
	}
	return p, nil
}

// workerEnv tells a worker's Go runtime what only its environment can. No
// goroutine is interrupted by a signal: its handler would run on a stack whose
// pages may not be there yet. No profile is kept of the runtime's own locks,
// which takes 1.4 MiB at the first contention and a record for each place it
// happens. The heap is kept small until startHeap: what it has once had stays
// locked, in the worker and in the standby.
func workerEnv(env []string) []string {
	const debug, collector = "GODEBUG=", "GOGC="
	set := debug
	env = slices.DeleteFunc(env, func(v string) bool {
		if strings.HasPrefix(v, debug) {
			set = v + ","
		}
		return strings.HasPrefix(v, debug) || strings.HasPrefix(v, collector)
	})
	for _, word := range []string{"asyncpreemptoff=1", "profstackdepth=0"} {
		if !strings.Contains(set, word) {
			set += word + ","
		}
	}
	return append(env, strings.TrimSuffix(set, ","), collector+"20")
}

// listen hands on what the process says until it has ended.
func (p *process) listen(events chan<- event) {
	for {
		m, files, err := p.control.receive()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			events <- event{p: p, paused: true}
			return
		}
		if err != nil {
			break
		}
		events <- event{p: p, m: m, files: files}
	}
	// It ends, or has. Who only closed the socket cannot be spoken to any more.
	if !host.Gone(p.pidfd, int(drainTime/time.Millisecond)) {
		p.signal(unix.SIGKILL)
		host.Gone(p.pidfd, -1)
	}
	p.status = p.reap()
	events <- event{p: p, gone: true}
}

// watchEnd tells as soon as a process that was killed does nothing any more. To
// give back what it had mapped takes the kernel 20 ms and more for each GiB, which
// nobody has to wait for. If it cannot be seen, the end of all that is the end.
func (p *process) watchEnd(events chan<- event) {
	for {
		ending, err := host.Ending(p.pid)
		switch {
		case err != nil:
			return
		case ending:
			select {
			case events <- event{p: p, ending: true}:
			case <-p.over:
			}
			return
		}
		select {
		case <-p.over:
			return
		case <-time.After(endingPause):
		}
	}
}

// reap collects how a process that has ended did so.
func (p *process) reap() death {
	var status unix.WaitStatus
	err := unix.EINTR
	for errors.Is(err, unix.EINTR) {
		_, e := unix.Wait4(p.pid, &status, 0, nil)
		errno, _ := e.(unix.Errno)
		err = errno
	}
	line := p.firstLine()
	d := death{line: line}
	switch {
	case err != 0: // the child of a keeper that is dead
		d.text = "how is not known"
	case status.Signaled():
		d.text = "signal: " + status.Signal().String()
		switch status.Signal() {
		case unix.SIGSEGV, unix.SIGBUS, unix.SIGILL, unix.SIGABRT:
			d.fault = true
		case unix.SIGKILL:
			d.slain = true
		}
	default:
		d.text = fmt.Sprintf("exit status %d", status.ExitStatus())
		d.clean = status.ExitStatus() == 0
		// What the runtime does at a panic, and at a signal for a fault. Our own
		// words begin otherwise.
		d.fault = status.ExitStatus() == 2 && line != "" && !strings.HasPrefix(line, "zramfs: ")
	}
	if line != "" {
		d.text += ": " + line
	}
	return d
}

// signal sends a signal; it may be gone.
func (p *process) signal(sig unix.Signal) {
	_ = unix.PidfdSendSignal(int(p.pidfd.Fd()), sig, nil, 0)
}

// firstLine is the first line on the process's stderr, which is where the
// runtime puts a panic, and fusermount3 its reasons; "" if there is none.
func (p *process) firstLine() string {
	if p.words == nil {
		return ""
	}
	text := make([]byte, 512)
	n, err := p.words.ReadAt(text, 0)
	if err != nil && err != io.EOF {
		return ""
	}
	line, _, _ := bytes.Cut(bytes.TrimSpace(text[:n]), []byte("\n"))
	return string(line)
}

// close lets go of a process that is gone.
func (p *process) close() {
	p.control.close()
	p.pidfd.Close()
	if p.words != nil {
		p.words.Close()
	}
}

// highFD copies a descriptor to a number that no child is given.
func highFD(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 256)
	if err != nil {
		return nil, fmt.Errorf("keep program: %w", err)
	}
	return os.NewFile(uintptr(fd), "program"), nil
}
