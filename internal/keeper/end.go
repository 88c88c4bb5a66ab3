package keeper

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zramfs/zramfs/internal/host"
)

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
	if k.pump != nil {
		k.pump.Stop() // its entries hold the connection open, as files do
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
