// Package keeper is the life of the processes: it arms, starts, watches and
// stops them.
//
// `zramfs mount` (Start) starts the keeper and returns when the disk can be
// used. The keeper holds what must survive a worker: the mount, the files of
// /dev/fuse, the regions with every stored page. The worker serves. They talk
// over one socket; its end tells each that the other is gone.
//
// The keeper's state belongs to one goroutine (keeper.run); everything else
// sends to it. There are no locks. It never touches data, never reads a
// request, and no process of ours outlives its mount.
//
// The other half of the package is what commands do to a mount that is there:
// find it, read its attributes, attach it, swap on it, end it.
package keeper

import (
	"errors"
	"fmt"
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
// goroutine that runs it.
type keeper struct {
	boot    boot
	log     *os.File // kernel log or stderr; nil: nowhere to say anything
	point   *os.File // the directory under the mount, locked against a second mount
	dev     string   // device of our mount, major:minor; "" while there is none
	source  *shm.Source
	held    held
	worker  *process
	signals chan os.Signal
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
	k := &keeper{boot: b}
	err = k.start()
	reported := k.boot.report(err)
	if err == nil && reported != nil {
		// Whoever asked for this mount was stopped while waiting for it.
		err = fmt.Errorf("the mount command is gone: %w", reported)
		k.unmount(false)
	} else if err == nil {
		err = k.run()
	}
	return errors.Join(err, k.end())
}

// start does everything up to the moment when the disk serves.
func (k *keeper) start() error {
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(keeperHeap)
	unix.Umask(0o077)
	k.signals = make(chan os.Signal, 4)
	signal.Ignore(syscall.SIGHUP, syscall.SIGPIPE)
	signal.Notify(k.signals, syscall.SIGTERM, syscall.SIGINT)
	k.openLog()
	k.boot.lockDown()

	if err := k.lockPoint(); err != nil {
		return err
	}
	k.source = shm.OpenSource()
	if !k.source.NoSwap() {
		k.boot.note("regions are memfds: stored pages can be swapped out while no worker holds them locked")
	}
	if err := k.connect(); err != nil {
		return err
	}
	worker, err := k.startWorker(1)
	if err != nil {
		return err
	}
	k.worker = worker
	return k.awaitReady()
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
			k.point = f
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

// awaitReady waits for the worker's first word. A signal meanwhile means that
// the mount is no longer wanted.
func (k *keeper) awaitReady() error {
	for {
		select {
		case in, open := <-k.worker.messages:
			switch {
			case !open: // after its last message
				<-k.worker.gone
				return Errorf(CodeFailure, "the worker ended before it could serve: %s", k.worker.reason())
			case in.Kind == msgReady:
				k.dev = deviceOf(k.boot.Config.Mountpoint)
				k.boot.Notes = append(k.boot.Notes, in.Notes...)
				return nil
			case in.Kind == msgFailed:
				if line := k.worker.firstLine(); !strings.Contains(line, in.Failed.Text) && line != "" {
					in.Failed.Text += ": " + line // what fusermount3 said
				}
				return in.Failed.error()
			default:
				k.held.take(in)
			}
		case sig := <-k.signals:
			return Errorf(CodeFailure, "stopped by %s before it could serve", sig)
		}
	}
}

// run watches over a mount that serves, until it ends. The error says why it
// ended if nobody asked for that.
func (k *keeper) run() error {
	for {
		select {
		case in, open := <-k.worker.messages:
			if open {
				k.held.take(in)
				continue
			}
			<-k.worker.gone
			if k.worker.clean() {
				return nil // unmounted by someone else
			}
			err := Errorf(CodeFailure, "worker %d ended (%s): the mount on %s ends with it",
				k.worker.pid(), k.worker.reason(), k.boot.Config.Mountpoint)
			k.say("%v", err)
			return err
		case sig := <-k.signals:
			if k.unmount(false) {
				return nil
			}
			err := unmountUnused(k.boot.Config.Mountpoint, k.worker.pid())
			if err == nil {
				return nil
			}
			k.say("%s: %v; it goes on serving", sig, err)
		}
	}
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
	k.held.close() // the last files of a connection that still has users: it ends with errors, not a hang
	var err error
	if k.dev != "" && deviceOf(k.boot.Config.Mountpoint) == k.dev {
		err = host.ReleaseLoops(k.boot.Config.Mountpoint)
	}
	k.unmount(true)
	if k.worker != nil {
		err = errors.Join(err, k.worker.stop(drainTime))
	}
	if k.source != nil {
		err = errors.Join(err, k.source.Close())
	}
	if k.point != nil {
		err = errors.Join(err, k.point.Close())
	}
	if k.boot.InCgroup {
		err = errors.Join(err, host.LeaveCgroup(cgroupName))
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
