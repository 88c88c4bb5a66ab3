package integration

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zramfs/zramfs/internal/host"
)

// TestSwapOffOrphans ends swap whose daemon is dead, with the mount there and
// with it gone: the loop devices must not stay swap.
func TestSwapOffOrphans(t *testing.T) {
	need(t, "/dev/loop-control", "mkswap")
	for _, unmounted := range []bool{false, true} {
		s := newSwap(t, "64M", nil)
		device := s.on()
		s.told.over = true
		k := &killer{m: s.mnt}
		pids := append(k.workers(), k.keeper())
		for _, sig := range []unix.Signal{unix.SIGSTOP, unix.SIGKILL} { // nobody may start another
			for _, pid := range pids {
				k.signal(pid, sig)
			}
		}
		await(t, "the end of the daemon", func() bool { return !s.serving() })
		if unmounted {
			if err := host.Unmount(s.point, true); err != nil {
				t.Fatal(err)
			}
		}
		zramfs(t, "swapoff", "--name", s.name)
		if used := swapUsed(t, device); used >= 0 {
			t.Errorf("%s is still swap", device)
		}
		if _, err := os.Stat(s.point); !os.IsNotExist(err) {
			t.Errorf("%s is still there: %v", s.point, err)
		}
	}
}
