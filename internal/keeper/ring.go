package keeper

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/zramfs/zramfs/internal/fuseconn"
	"github.com/zramfs/zramfs/internal/host"
	"github.com/zramfs/zramfs/internal/percpu"
	"github.com/zramfs/zramfs/internal/shm"
)

// With transport ring the keeper owns the kernel's end of the connection: rings,
// their entries, and a thread for each CPU (fuseconn.Pump). A worker's death then
// costs what it costs with percpu; the keeper's ends the mount, since its rings
// and the requests in them die with it. Who survives it makes that an error for
// everybody who waits, and no hang.

// switchURing says whether the kernel offers FUSE over io_uring to new mounts.
const switchURing = "/sys/module/fuse/parameters/enable_uring"

var errRingKeeper = errors.New("the keeper goes on with the program before: with transport ring the requests of the kernel " +
	"lie in its rings, which do not survive an exec; the worker runs the new program")

// checkRing refuses transport ring where it cannot be had, before anything is
// mounted.
func (c *Config) checkRing(admin bool) error {
	if !admin {
		return Errorf(CodeNotPermitted, "transport ring mounts by itself and needs root (CAP_SYS_ADMIN): "+
			"use --transport auto or gofuse")
	}
	text, err := os.ReadFile(switchURing)
	if errors.Is(err, fs.ErrNotExist) {
		return Errorf(CodeLacking, "this kernel has no FUSE over io_uring (%s is not there; it takes Linux 6.14 with "+
			"CONFIG_FUSE_IO_URING): use --transport percpu", switchURing)
	}
	if err != nil {
		return &Error{CodeLacking, "transport ring", err}
	}
	if strings.TrimSpace(string(text)) != "Y" {
		if !c.EnableURing {
			return Errorf(CodeLacking, "FUSE over io_uring is switched off in this kernel (fuse.enable_uring=N): "+
				"pass --enable-uring, or install deploy/modprobe.d/zramfs-uring.conf; or use --transport percpu")
		}
		if err := os.WriteFile(switchURing, []byte("Y"), 0); err != nil {
			return &Error{CodeLacking, "switch on FUSE over io_uring", err}
		}
	}
	if err := fuseconn.ProbeRing(); err != nil {
		return &Error{CodeLacking, "io_uring cannot be used here (see kernel.io_uring_disabled, and what a container may): " +
			"use --transport percpu", err}
	}
	return nil
}

// planRing is fuseconn.PlanRing on this machine.
func planRing(cpus []int, memory int64) (readers []int, l fuseconn.Layout, err error) {
	possible, err := percpu.Possible()
	if err != nil {
		return nil, l, err
	}
	readers, l = fuseconn.PlanRing(cpus, possible, memory)
	if err := l.Ring.Check(); err != nil {
		return nil, l, &Error{CodeLacking, "transport ring", err}
	}
	return readers, l, nil
}

// startPump starts the rings when the first worker has agreed on them with the
// kernel. Until then the kernel lets requests wait.
func (k *keeper) startPump() error {
	l := k.held.layout
	if len(l.Ring.CPUs) == 0 || k.pump != nil {
		return nil
	}
	fd, err := unix.FcntlInt(k.held.buffers.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("start rings: %w", err)
	}
	mem, err := shm.Adopt(roleBuffers, os.NewFile(uintptr(fd), roleBuffers)) // mapped as long as this process lives
	if err != nil {
		return fmt.Errorf("start rings: %w", err)
	}
	// A thread that comes back from the kernel finds a processor at once.
	runtime.GOMAXPROCS(runtime.NumCPU() + len(l.Ring.CPUs))
	pump, err := fuseconn.NewPump(k.held.fuse[0], l, len(k.held.cpus), mem)
	if err == nil {
		err = pump.Start()
	}
	if err != nil {
		return &Error{CodeLacking, "the kernel took no rings: use --transport percpu", err}
	}
	k.pump = pump
	go func() {
		<-pump.Done()
		_ = k.do(func() error { // who has ended already has no use for it
			if !k.held.over() {
				k.finish(Errorf(CodeFailure, "the rings of %s have failed: the mount ends with them", k.boot.Config.Mountpoint))
			}
			return nil
		})
	}()
	return nil
}

// initError gives the exit code to a kernel that offers no rings after all, as
// when the switch was turned off since it was looked at.
func initError(err error) error {
	if errors.Is(err, fuseconn.ErrNoRing) {
		return &Error{CodeLacking, "the kernel offers no rings to this mount: use --transport percpu", err}
	}
	return err
}

// heldConn is a connection whose files the keeper holds.
type heldConn interface {
	fuseconn.Conn
	Relieve()
	Succeed(resume []byte, poison []uint64)
	Init() error
	Resend() error
}

func newConn(cfg fuseconn.PerCPUConfig) (heldConn, error) {
	if n := len(cfg.Layout.Ring.CPUs); n > 0 {
		runtime.GOMAXPROCS(runtime.NumCPU() + n) // as in the keeper
		return fuseconn.NewRing(cfg)
	}
	return fuseconn.NewPerCPU(cfg)
}

func (w *worker) onRing() bool { return len(w.task.Layout.Ring.CPUs) > 0 }

// endRing ends this process, and the mount, when the keeper is dead: the
// requests that lay in its rings will never be answered. The connection is
// aborted first, so that nothing below waits for it.
func (w *worker) endRing() {
	_ = host.Abort(w.task.Config.Mountpoint) // it may be gone
	closeAll(w.held.fuse)
	w.clearAway()
	os.Exit(int(CodeFailure))
}

// crashMeans says what the death of a process would mean to who uses the disk.
func (w *worker) crashMeans(conn fuseconn.Conn) string {
	text := crashMeans(w.resends(conn), w.buffers != nil)
	if w.onRing() {
		text += "; the death of the keeper ends the mount, and who uses the disk gets I/O errors, as always with transport ring"
	}
	return text
}
