package keeper

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/zramfs/zramfs/internal/fuseconn"
	"github.com/zramfs/zramfs/internal/host"
	"github.com/zramfs/zramfs/internal/invariants"
	"github.com/zramfs/zramfs/internal/percpu"
	"github.com/zramfs/zramfs/internal/shm"
)

// connect makes what a worker needs to talk to the kernel, and holds it: the
// mount, a /dev/fuse file per reader, the request buffers, the header. Without
// root it does nothing: then the worker mounts, and the mount dies with it.
func (k *keeper) connect() error {
	if k.boot.Config.Transport == TransportGofuse {
		return nil
	}
	cpus, err := percpu.Allowed()
	if err != nil {
		return err
	}
	memory, err := host.TotalMemory()
	if err != nil {
		return err
	}
	readers, layout := fuseconn.Plan(cpus, memory)
	if k.boot.Config.Backing.Path != "" {
		layout = layout.Patient(len(readers))
	}
	if k.boot.Config.Transport == TransportRing {
		if readers, layout, err = planRing(cpus, memory); err != nil {
			return err
		}
	}
	k.held.cpus, k.held.layout = readers, layout
	page, err := k.source.Create(roleHeader, headerSize)
	if err != nil {
		return err
	}
	k.held.header = page.File()
	if k.header, err = makeHeader(page); err != nil {
		return err
	}
	invariants.CrashPoint("keeper.made")
	k.header.crash().keeper.Store(int64(os.Getpid()))
	invariants.CrashPoint("keeper.made.keeper")
	k.header.crash().caretaker.Store(int64(os.Getpid()))
	invariants.CrashPoint("keeper.made.caretaker")
	if k.held.buffers, err = k.makeRegion(roleBuffers, roundUp(layout.Bytes(len(readers)))); err != nil {
		return err
	}
	if err := k.lockHeld(); err != nil {
		return err
	}
	mounted, err := fuseconn.Mount(k.boot.Config.Mountpoint, fuseconn.MountOptions{
		AllowOther: k.boot.Config.AllowOther, MaxRead: layout.Payload,
	})
	if errors.Is(err, unix.EPERM) {
		return &Error{CodeNotPermitted, "mount is not permitted: run as root, or in a container pass --cap-add SYS_ADMIN", err}
	}
	if err != nil {
		return err
	}
	k.held.fuse = append(k.held.fuse, mounted)
	if k.dev, err = deviceOf(k.boot.Config.Mountpoint); err != nil {
		return err
	}
	for range readers {
		clone, err := fuseconn.Clone(mounted)
		if err != nil {
			return err
		}
		k.held.fuse = append(k.held.fuse, clone)
	}
	return nil
}

// makeRegion makes a region of which this process wants the file only.
func (k *keeper) makeRegion(name string, size int64) (*os.File, error) {
	r, err := k.source.Create(name, size)
	if err != nil {
		return nil, err
	}
	fd, err := unix.FcntlInt(r.File().Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err = errors.Join(err, r.Close()); err != nil {
		return nil, fmt.Errorf("make region %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

func roundUp(n int64) int64 { return roundTo(n, shm.PageSize) }

// roundTo rounds up to a power of two.
func roundTo(n, to int64) int64 { return (n + to - 1) &^ (to - 1) }
