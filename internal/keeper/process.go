package keeper

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zramfs/zramfs/internal/fuseconn"
)

// incoming is a message with the descriptor that came along, nil if none.
type incoming struct {
	message
	file *os.File
}

// process is one generation of worker, as the keeper sees it.
type process struct {
	cmd      *exec.Cmd     // immutable
	control  *control      // immutable
	words    *os.File      // memory file: what it wrote to stderr; immutable
	messages chan incoming // closed at the socket's end: the process ends, or has ended
	gone     chan struct{} // closed when it is reaped
	status   error         // of Wait; valid after gone
}

// assignment is everything a worker is told at its start.
type assignment struct {
	Config      Config          `json:"config"`
	Generation  int             `json:"generation"`
	KeeperPID   int             `json:"keeper_pid"`
	Notes       []string        `json:"notes,omitempty"`
	Locked      bool            `json:"locked"`
	Flusher     bool            `json:"flusher"`
	OOMScore    int             `json:"oom_score"`
	CPUs        []int           `json:"cpus,omitempty"`  // where readers run; none: the worker mounts
	Layout      fuseconn.Layout `json:"layout,omitzero"` // of the request buffers
	Descriptors []descriptor    `json:"descriptors"`     // inherited ones, from firstFD on
}

// Roles of inherited descriptors.
const (
	roleSource  = "source"  // tmpfs that regions are made on
	roleFuse    = "fuse"    // a file of /dev/fuse: the first carried the mount, then a clone per reader
	roleHeader  = "header"  // region: saved INIT
	roleBuffers = "buffers" // region: request buffers
	roleRegion  = "region"  // region of a device, made by an earlier worker
)

type descriptor struct {
	Role string `json:"role"`
	Name string `json:"name,omitempty"`
}

const (
	controlFD = 3 // of a worker
	firstFD   = 4 // of the descriptors that its assignment lists
)

// startWorker starts a generation of worker and gives it all that is held.
func (k *keeper) startWorker(generation int) (*process, error) {
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
	names, files := k.held.list()
	if tmpfs := k.source.File(); tmpfs != nil {
		names, files = append(names, descriptor{Role: roleSource}), append(files, tmpfs)
	}
	p := &process{
		control:  ctl,
		words:    os.NewFile(uintptr(fd), "words"),
		messages: make(chan incoming),
		gone:     make(chan struct{}),
	}
	p.cmd = exec.Command("/proc/self/exe", "worker", k.boot.Config.Mountpoint)
	p.cmd.Args[0] = "zramfs"
	p.cmd.Dir = "/"
	p.cmd.Stderr = p.words
	p.cmd.ExtraFiles = append([]*os.File{theirs}, files...)
	// A session of its own: the terminal's Ctrl-C is for the keeper, which
	// decides whether the mount can end.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := p.cmd.Start(); err != nil {
		ctl.close()
		p.words.Close()
		return nil, fmt.Errorf("start worker: %w", err)
	}
	go p.listen()
	go p.reap()
	err = ctl.send(message{Kind: msgConfig, Worker: &assignment{
		Config:      k.boot.Config,
		Generation:  generation,
		KeeperPID:   os.Getpid(),
		Notes:       k.boot.Notes,
		Locked:      k.boot.Locked,
		Flusher:     k.boot.Flusher,
		OOMScore:    k.boot.OOMScore,
		CPUs:        k.held.cpus,
		Layout:      k.held.layout,
		Descriptors: names,
	}}, nil)
	if err != nil && !errors.Is(err, unix.EPIPE) { // EPIPE: it died already; its reason is worth more
		return nil, errors.Join(err, p.stop(0))
	}
	return p, nil
}

func (p *process) listen() {
	defer close(p.messages)
	for {
		m, f, err := p.control.receive()
		if err != nil {
			return // its death is told by reap
		}
		p.messages <- incoming{m, f}
	}
}

func (p *process) reap() {
	p.status = p.cmd.Wait()
	close(p.gone)
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// clean says whether a process that is gone ended as it should.
func (p *process) clean() bool { return p.status == nil }

// reason says how a process that is gone ended: its status, and what it said.
func (p *process) reason() string {
	status := "exit status 0"
	if p.status != nil {
		status = p.status.Error()
	}
	if line := p.firstLine(); line != "" {
		status += ": " + line
	}
	return status
}

// firstLine is the first line on the process's stderr, which is where the
// runtime puts a panic, and fusermount3 its reasons; "" if there is none.
func (p *process) firstLine() string {
	text := make([]byte, 512)
	n, err := p.words.ReadAt(text, 0)
	if err != nil && err != io.EOF {
		return ""
	}
	line, _, _ := bytes.Cut(bytes.TrimSpace(text[:n]), []byte("\n"))
	return string(line)
}

// stop ends a process whose mount is gone: it is asked first, and killed when
// it has not ended in time.
func (p *process) stop(patience time.Duration) error {
	go func() { // what it still says has no reader any more
		for in := range p.messages {
			if in.file != nil {
				in.file.Close()
			}
		}
	}()
	_ = p.control.send(message{Kind: msgStop}, nil) // it may be gone
	var err error
	select {
	case <-p.gone:
	case <-time.After(patience):
		err = fmt.Errorf("worker %d did not end within %s: killed", p.pid(), patience)
		_ = p.cmd.Process.Kill() // it may have ended just now
		<-p.gone
	}
	p.control.close()
	p.words.Close()
	return err
}
