package fuseconn

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zramfs/zramfs/internal/percpu"
)

const ringSwitch = "/sys/module/fuse/parameters/enable_uring"

// startRing starts a server with transport ring. The kernel's switch is on
// until that has mounted; who else mounts then is offered a ring and does not
// ask for it.
func startRing(t *testing.T, mode string) *mounted {
	t.Helper()
	defer switchRing(t)()
	return start(t, "ring", mode)
}

// switchRing lets new mounts have rings, until the function that it gives.
func switchRing(t *testing.T) (back func()) {
	t.Helper()
	f, err := os.OpenFile(ringSwitch, os.O_RDWR, 0)
	if err != nil {
		t.Skipf("needs FUSE over io_uring (Linux 6.14) and root: %v", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil { // other tests do the same
		t.Fatal(err)
	}
	before := make([]byte, 1)
	if _, err := f.ReadAt(before, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("Y"), 0); err != nil {
		t.Skipf("needs FUSE over io_uring: %v", err)
	}
	return func() {
		if _, err := f.WriteAt(before, 0); err != nil {
			t.Error(err)
		}
		f.Close()
	}
}

func mountRing(mountpoint string, cfg Config) (*Ring, *Pump, error) {
	cpus, err := percpu.Allowed()
	if err != nil {
		return nil, nil, err
	}
	n, err := percpu.Possible()
	if err != nil {
		return nil, nil, err
	}
	readers, l := PlanRing(cpus, n, 4<<30)
	cfg.MaxBackground = l.MaxBackground(1)
	main, err := Mount(mountpoint, MountOptions{MaxRead: l.Payload})
	if err != nil {
		return nil, nil, err
	}
	clone, err := Clone(main)
	if err != nil {
		return nil, nil, err
	}
	mem, err := anonymous(l.Bytes(len(readers)))
	if err != nil {
		return nil, nil, err
	}
	r, err := NewRing(PerCPUConfig{
		Config: cfg, Main: main, Clones: []*os.File{clone}, CPUs: readers, Layout: l, Memory: mem,
	})
	if err != nil {
		return nil, nil, err
	}
	pump, err := NewPump(main, l, len(readers), mem)
	if err != nil {
		return nil, nil, err
	}
	if err := r.Init(); err != nil {
		return nil, nil, err
	}
	return r, pump, pump.Start()
}
