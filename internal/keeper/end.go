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

// terminate ends the mount if nobody uses it. Who does is looked for on another
// goroutine: that reads what all processes of the machine have open.
func (k *keeper) terminate(sig os.Signal) {
	if k.worker == nil || !k.worker.served && k.generation <= 1 {
		k.finish(Errorf(CodeFailure, "stopped by %s before it could serve", sig))
		return
	}
	if k.leaving {
		return
	}
	k.leaving = true
	go func() {
		err := unmountUnused(k.boot.Config.Mountpoint, k.leave, k.pids)
		_ = k.do(func() error { // where the mount has ended there is nothing to say
			k.leaving = false
			if err != nil && !k.finished {
				k.say("%s: %v; it goes on serving", sig, err)
			}
			return nil
		})
	}()
}

// leave ends the mount if it can be unmounted now. Not for the keeper's goroutine.
func (k *keeper) leave() error {
	return k.do(func() error {
		if k.finished {
			return errEnding
		}
		err := k.unmount(false)
		if err == nil {
			k.finish(nil)
		}
		return err
	})
}

// pids are the workers' process numbers. Not for the keeper's goroutine.
func (k *keeper) pids() (pids []int) {
	_ = k.do(func() error { // a mount that has ended has none
		for p := range k.processes {
			pids = append(pids, p.pid)
		}
		return nil
	})
	return pids
}

// visible says whether our mount is what is mounted on its mount point.
func (k *keeper) visible() (bool, error) {
	dev, err := deviceOf(k.boot.Config.Mountpoint)
	return err == nil && dev != "" && dev == k.dev, err
}

// unmount takes our mount away. It is an error if somebody can use it all the
// same: with umount -l, under another mount, or in another namespace a mount is
// out of our sight, and whoever has a file of it open goes on using it.
func (k *keeper) unmount(lazy bool) error {
	point := k.boot.Config.Mountpoint
	if k.held.over() {
		return nil // someone else did
	}
	switch visible, err := k.visible(); {
	case err != nil:
		return err
	case !visible && len(k.held.fuse) == 0:
		return nil // or there never was one
	case !visible:
		return Errorf(CodeBusy, "%s is out of sight, by umount -l or under another mount, and may still be in use", point)
	}
	err := host.Unmount(point, lazy)
	switch {
	case k.held.over():
		return nil
	case err == nil && len(k.held.fuse) > 0:
		return Errorf(CodeBusy, "%s is unmounted here, and still in use elsewhere", point)
	}
	return err
}

// end leaves nothing behind: no mount, no worker, no cgroup.
func (k *keeper) end() error {
	var err error
	if k.dev == "" && k.held.fuse != nil {
		k.dev, err = deviceOf(k.boot.Config.Mountpoint)
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
	visible, _ := k.visible()              // unmount says why that is not known
	if visible {
		err = errors.Join(err, host.ReleaseLoops(k.boot.Config.Mountpoint))
	}
	if err := k.unmount(true); err != nil {
		k.say("%v", err)
	}
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
