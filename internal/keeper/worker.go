package keeper

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zramfs/zramfs/internal/host"
	"github.com/zramfs/zramfs/internal/shm"
)

// worker is the state of a worker's process.
type worker struct {
	control *control   // immutable
	task    assignment // immutable
	source  *shm.Source
	fuse    []*os.File // immutable
	header  *os.File   // immutable
	buffers *os.File   // immutable
	// bufferBytes is the size of the request buffers, set before serving.
	bufferBytes int64
	locked      bool
	notes       []string
	unmount     func() error // of gofuse; nil: the keeper unmounts
	stopping    sync.Once
}

// RunWorker is the hidden command: the worker's process.
func RunWorker() error {
	w, err := openWorker()
	if err != nil {
		return err
	}
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE) // the keeper decides
	nameProcess()
	if !w.task.Config.leavesOut(guardHeap) {
		startHeap()
	}
	if err := host.Undumpable(); err != nil {
		w.note("%v", err)
	}
	if w.task.Config.leavesOut(guardLocked) {
		// As the keeper: an experiment.
	} else if err := host.LockMemory(); err != nil {
		w.note("worker: %v", err)
	} else {
		w.locked = true
	}
	go w.watchKeeper()
	if err := w.serve(); err != nil {
		return errors.Join(err, w.control.send(message{Kind: msgFailed, Failed: failureOf(err)}, nil))
	}
	return nil
}

// openWorker takes the inherited descriptors as the keeper lists them.
func openWorker() (*worker, error) {
	unix.CloseOnExec(controlFD)
	ctl, err := adoptControl(os.NewFile(controlFD, "control"))
	if err != nil {
		return nil, &Error{CodeUsage, "worker is started by the keeper, not by hand", err}
	}
	m, _, err := ctl.receive()
	if err != nil || m.Kind != msgConfig || m.Worker == nil {
		return nil, &Error{CodeFailure, "worker got no assignment", err}
	}
	w := &worker{control: ctl, task: *m.Worker}
	var tmpfs *os.File
	for i, d := range w.task.Descriptors {
		fd := firstFD + i
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, unix.FD_CLOEXEC); err != nil {
			return nil, fmt.Errorf("descriptor %d (%s %s) is missing: %w", fd, d.Role, d.Name, err)
		}
		f := os.NewFile(uintptr(fd), d.Role+" "+d.Name)
		switch d.Role {
		case roleSource:
			tmpfs = f
		case roleFuse:
			w.fuse = append(w.fuse, f)
		case roleHeader:
			w.header = f
		case roleBuffers:
			w.buffers = f
		default:
			return nil, fmt.Errorf("descriptor %d has the unknown role %q", fd, d.Role)
		}
	}
	w.source = shm.AdoptSource(tmpfs)
	return w, nil
}

func (w *worker) note(format string, args ...any) {
	w.notes = append(w.notes, fmt.Sprintf(format, args...))
}

// watchKeeper ends this process when the keeper says so or is gone. Without
// the keeper nothing would take the mount away later, so it goes now: users
// of the disk get errors, and nothing hangs.
func (w *worker) watchKeeper() {
	for {
		m, f, err := w.control.receive()
		if f != nil {
			f.Close()
		}
		switch {
		case err != nil:
			// It may be gone already, and then there are no loop devices on it.
			_ = host.ReleaseLoops(w.task.Config.Mountpoint)
			_ = host.Unmount(w.task.Config.Mountpoint, true)
			os.Exit(int(CodeFailure))
		case m.Kind == msgStop:
			w.stop()
		}
	}
}

// stop ends serving: the mount is gone, or will not be used. A reader that
// has not seen the end of its connection by then has nothing left to answer.
func (w *worker) stop() {
	w.stopping.Do(func() {
		if w.unmount != nil {
			_ = w.unmount() // EINVAL when it is gone
		}
		time.AfterFunc(drainTime/2, func() { os.Exit(int(CodeFailure)) })
	})
}

// Create makes a region of a device and hands it to the keeper, which holds
// it from then on: a descriptor in the socket is held by the socket.
func (w *worker) Create(name string, size int64) (*shm.Region, error) {
	r, err := w.source.Create(name, size)
	if err != nil {
		return nil, err
	}
	if err := w.control.send(message{Kind: msgRegion, Name: name}, r.File()); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

// Drop lets the keeper and this process forget a region.
func (w *worker) Drop(name string, r *shm.Region) {
	// A keeper that is gone has let go of it anyway, and a region that cannot
	// be unmapped is no worse than one that is kept.
	_ = w.control.send(message{Kind: msgDrop, Name: name}, nil)
	_ = r.Close()
}
