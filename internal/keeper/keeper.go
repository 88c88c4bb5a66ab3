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

	generation int
	resend     bool                  // the kernel sends again what a dead worker had
	worker     *process              // serves, or is to serve next; nil: none yet
	standby    *process              // nil: none now
	trial      *trial                // of another program; nil: none
	program    *os.File              // what workers run; nil: what this process runs
	moving     bool                  // the worker is to be replaced by the standby, when that is ready
	processes  map[*process]struct{} // all that were not seen gone
	failures   int                   // workers in a row that never served, or died by a fault at once
	due        due
	clock      *time.Timer
	locker     locker       // of memory that the kernel could swap out
	swap       *swapThreads // nil: the mount is no swap

	events   chan event
	signals  chan os.Signal
	calls    chan func()
	listener *net.UnixListener // nil: nobody can ask anything
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
		k.unmount(false)
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
		if deviceOf(dir) != "" {
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

// terminate ends the mount if nobody uses it.
func (k *keeper) terminate(sig os.Signal) {
	if k.worker == nil || !k.worker.served && k.generation <= 1 {
		k.finish(Errorf(CodeFailure, "stopped by %s before it could serve", sig))
		return
	}
	if k.unmount(false) {
		k.finish(nil)
		return
	}
	err := unmountUnused(k.boot.Config.Mountpoint, k.pids()...)
	if err == nil {
		k.finish(nil)
		return
	}
	k.say("%s: %v; it goes on serving", sig, err)
}

// pids are the workers' process numbers.
func (k *keeper) pids() []int {
	var pids []int
	for p := range k.processes {
		pids = append(pids, p.pid)
	}
	return pids
}

// unmount takes our mount away, and says whether it is gone.
func (k *keeper) unmount(lazy bool) bool {
	point := k.boot.Config.Mountpoint
	if k.dev == "" || deviceOf(point) != k.dev {
		return true // someone else did, or there never was one
	}
	err := host.Unmount(point, lazy)
	if err != nil && !errors.Is(err, unix.EBUSY) {
		k.say("%v", err)
	}
	return err == nil
}

// end leaves nothing behind: no mount, no worker, no cgroup.
func (k *keeper) end() error {
	if k.dev == "" && k.held.fuse != nil {
		k.dev = deviceOf(k.boot.Config.Mountpoint)
	}
	if k.swap != nil {
		k.swap.stop.Store(true) // not awaited: it may be in a swapon(2) that ends with the mount
	}
	for p := range k.processes {
		if p != k.worker {
			p.signal(unix.SIGKILL) // it holds copies of the files, and nothing to finish
		}
	}
	point := k.held.point
	k.held.point, k.held.source = nil, nil // closed below
	k.held.close()                         // the last files of a connection that still has users: it ends with errors, not a hang
	var err error
	if k.dev != "" && deviceOf(k.boot.Config.Mountpoint) == k.dev {
		err = host.ReleaseLoops(k.boot.Config.Mountpoint)
	}
	k.unmount(true)
	err = errors.Join(err, k.stopAll())
	close(k.ended)
	if k.listener != nil {
		err = errors.Join(err, k.listener.Close())
	}
	if k.source != nil {
		err = errors.Join(err, k.source.Close())
	}
	if point != nil {
		err = errors.Join(err, point.Close()) // and with it the lock: the next mount may come
	}
	if k.boot.InCgroup {
		err = errors.Join(err, host.LeaveCgroup(cgroupName))
	}
	return err
}

// stopAll ends all workers. The one that serves is asked first, and killed
// when it has not ended in time.
func (k *keeper) stopAll() error {
	if k.worker != nil {
		_ = k.worker.control.send(message{Kind: msgStop}) // it may be gone
	}
	var err error
	patience := time.After(drainTime)
	for len(k.processes) > 0 {
		select {
		case e := <-k.events:
			closeAll(e.files)
			if e.gone {
				delete(k.processes, e.p)
				e.p.close()
			}
		case f := <-k.calls:
			f() // whoever asks for something now finds the mount finished
		case <-patience:
			for p := range k.processes {
				err = errors.Join(err, fmt.Errorf("worker %d did not end within %s: killed", p.pid, drainTime))
				p.signal(unix.SIGKILL)
			}
		}
	}
	return err
}

// deviceOf is the device of the zramfs mounted on a directory, "" if none is.
func deviceOf(point string) string {
	if m, ok, err := host.MountAt(point); err == nil && ok && m.Type == host.FSType {
		return m.Dev
	}
	return ""
}

// busyError says who holds a mount, besides the daemon itself.
func busyError(point string, daemon ...int) error {
	holders, err := host.Holders(point, daemon...)
	if err != nil {
		return &Error{CodeBusy, point + " is busy, and who holds it cannot be told", err}
	}
	if len(holders) == 0 {
		return Errorf(CodeBusy, "%s is busy, held by the kernel or by a process this user cannot see", point)
	}
	return Errorf(CodeBusy, "%s is busy, held by %s", point, strings.Join(holders, ", "))
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
