// Package keeper is the life of the processes: it arms, starts, watches,
// replaces and stops them.
//
// `zramfs mount` (Start) starts the keeper and returns when the disk can be
// used. The keeper holds what must survive a worker: the mount, the files of
// /dev/fuse, the regions with every stored page. The worker serves. A standby
// has mapped everything, too, and waits. Each talks with the keeper over a
// socket of its own; its end tells both that the other is gone.
//
// A worker that dies is replaced by the standby; an upgrade kills the worker
// when a standby of another program is ready; and when the keeper dies, the
// worker starts a new one, which replaces that worker by a child of its own.
// It is the same replacement each time (replace.go).
//
// The keeper's state belongs to one goroutine (keeper.loop); everything else
// sends to it, or runs on it by keeper.do. There are no locks. It never touches
// data, never reads a request, and no process of ours outlives its mount.
//
// The other half of the package is what commands do to a mount that is there:
// find it, read its attributes, attach it, swap on it, end it.
package keeper

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zramfs/zramfs/internal/fuseconn"
	"github.com/zramfs/zramfs/internal/host"
	"github.com/zramfs/zramfs/internal/shm"
)

const (
	// keeperHeap bounds the keeper's Go memory: it holds descriptors only.
	keeperHeap = 16 << 20
	// drainTime is how long a worker may take to end once its mount is gone.
	drainTime = 10 * time.Second
	// cgroupName is the cgroup of all daemons, below the root.
	cgroupName = "zramfs"
	// For so long a mount waits for the end of the one before it.
	lockTries = 100
	lockPause = 50 * time.Millisecond
)

// keeper is the state of the keeper's process. All fields belong to the
// goroutine that runs loop.
type keeper struct {
	boot   boot
	log    *os.File // kernel log or stderr; nil: nowhere to say anything
	dev    string   // device of our mount, major:minor; "" while there is none
	held   held
	source *shm.Source
	header header // void if the worker mounts

	generation  int
	resend      bool                  // the kernel sends again what a dead worker had
	worker      *process              // serves, or is to serve next; nil: none yet
	standby     *process              // nil: none now
	trial       *trial                // of another program; nil: none
	program     *os.File              // what workers run; nil: what this process runs
	programText []byte                // program, mapped and locked; nil: as program
	moving      bool                  // the worker is to be replaced by the standby, when that is ready
	processes   map[*process]struct{} // all that were not seen gone
	failures    int                   // workers in a row that never served, or died by a fault at once
	due         due
	clock       *time.Timer
	locker      locker         // of memory that the kernel could swap out
	swap        *swapThreads   // nil: the mount is no swap. They may be ending
	pump        *fuseconn.Pump // of transport ring, from the first worker on; nil: none

	events   chan event
	signals  chan os.Signal
	calls    chan func()
	listener *net.UnixListener // nil: nobody can ask anything
	leaving  bool              // a signal to end is being answered
	finished bool
	result   error         // of finish
	ended    chan struct{} // closed after the last call
}

// due says when something is to be done; zero is never.
type due struct {
	replace time.Time // start the next worker
	served  time.Time // the worker has come to serve, or is stuck
	standby time.Time // make a standby
	look    time.Time // for memory to lock
}

// RunKeeper is the hidden command: the keeper's process from its first
// instruction to its last.
func RunKeeper() error {
	b, err := readBoot()
	if err != nil {
		return err
	}
	if !b.Armed {
		err := b.arm() // returns only if it cannot
		b.report(err)
		return err
	}
	k := &keeper{
		boot:      b,
		processes: make(map[*process]struct{}),
		clock:     time.NewTimer(time.Hour),
		events:    make(chan event),
		signals:   make(chan os.Signal, 4),
		calls:     make(chan func()),
		ended:     make(chan struct{}),
	}
	if b.Estate != nil {
		if err := k.inherit(b.Estate); err != nil {
			k.say("%v", err)
			return err
		}
		return k.live(nil)
	}
	err = k.start()
	reported := k.boot.report(err)
	if err == nil && reported != nil {
		// Whoever asked for this mount was stopped while waiting for it.
		_ = k.unmount(false) // or its end takes it away
		err = fmt.Errorf("the mount command is gone: %w", reported)
	}
	return k.live(err)
}

// live watches over a mount that serves until it ends, and leaves nothing
// behind. With an error it ends at once.
func (k *keeper) live(err error) error {
	if err == nil {
		if err := k.watchSwap(); err != nil {
			k.say("%v: no more segments are enabled", err)
		}
		k.listen()
		err = k.loop(func() bool { return false })
	}
	return errors.Join(err, k.end())
}

// prepare is what every keeper does first.
func (k *keeper) prepare() {
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(keeperHeap)
	unix.Umask(0o077)
	signal.Ignore(syscall.SIGHUP, syscall.SIGPIPE)
	signal.Notify(k.signals, syscall.SIGTERM, syscall.SIGINT)
	k.openLog()
	k.boot.lockDown()
}

// start does everything up to the moment when the disk serves.
func (k *keeper) start() error {
	k.prepare()
	if err := k.lockPoint(); err != nil {
		return err
	}
	k.openSource()
	if err := k.connect(); err != nil {
		return err
	}
	worker, err := k.startWorker(nil)
	if err != nil {
		return err
	}
	k.worker = worker
	return k.loop(func() bool { return worker.served })
}

// openSource chooses where regions are made.
func (k *keeper) openSource() {
	if k.boot.Config.Memfd {
		k.source = shm.AdoptSource(nil)
	} else {
		k.source = shm.OpenSource()
	}
	k.held.source = k.source.File()
	if !k.source.NoSwap() && !k.boot.Locked {
		k.boot.note("regions are memfds, and memory may not be locked: stored pages can be swapped out")
	}
}

// lockPoint makes sure that no other keeper mounts here at the same time, and
// that the directory is still what the command saw.
func (k *keeper) lockPoint() error {
	dir := k.boot.Config.Mountpoint
	if err := checkEmptyDir(dir); err != nil {
		return err
	}
	f, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &Error{CodeMountpoint, "mount point", err}
	}
	for range lockTries {
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			k.held.point = f
			return nil
		}
		if dev, err := deviceOf(dir); err != nil {
			f.Close()
			return err
		} else if dev != "" {
			break
		}
		time.Sleep(lockPause) // umount(8) does not wait for the keeper of the mount before
	}
	f.Close()
	return alreadyMounted(dir)
}

// loop is the keeper's goroutine: it does what comes until the mount ends, or
// until is true. The error says why it ended if nobody asked for that.
func (k *keeper) loop(until func() bool) error {
	for !k.finished && !until() {
		k.setClock()
		select {
		case e := <-k.events:
			k.handle(e)
		case sig := <-k.signals:
			k.terminate(sig)
		case f := <-k.calls:
			f()
		case <-k.clock.C:
			k.tick(time.Now())
		}
	}
	return k.result
}

// finish ends the loop. nil: it was asked for.
func (k *keeper) finish(err error) {
	if k.finished {
		return
	}
	k.finished, k.result = true, err
	if err != nil && k.generation > 0 {
		k.say("%v", err)
	}
}

// deviceOf is the device of the zramfs mounted on a directory, "" if none is.
func deviceOf(point string) (string, error) {
	m, ok, err := host.MountAt(point)
	if err != nil || !ok || m.Type != host.FSType {
		return "", err
	}
	return m.Dev, nil
}

// openLog finds a place for the few words a daemon says. The kernel's log
// never blocks, which a pipe to a logger that is swapped out would.
func (k *keeper) openLog() {
	if k.boot.Config.Foreground {
		k.log = os.Stderr
		return
	}
	// No log is no reason to give up: containers have none.
	k.log, _ = os.OpenFile("/dev/kmsg", os.O_WRONLY|unix.O_CLOEXEC, 0)
}

func (k *keeper) say(format string, args ...any) {
	if k.log == nil {
		return
	}
	prefix := "zramfs: "
	if !k.boot.Config.Foreground {
		prefix = fmt.Sprintf("<4>zramfs[%d]: ", os.Getpid())
	}
	// Nowhere to complain about a log that cannot be written.
	_, _ = k.log.WriteString(prefix + strings.ReplaceAll(fmt.Sprintf(format, args...), "\n", "; ") + "\n")
}
