package integration

import (
	"errors"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zramfs/zramfs/internal/host"
	"github.com/zramfs/zramfs/internal/keeper"
)

// TestSwapOffOrphans ends swap whose daemon is dead, with the mount there, with
// it gone, and with all gone but the guards: the loop devices must not stay
// swap, nor the guards set.
func TestSwapOffOrphans(t *testing.T) {
	need(t, "/dev/loop-control", "mkswap")
	for _, left := range []string{"mount", "loop", "guards"} {
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
		if left != "mount" {
			if err := host.Unmount(s.point, true); err != nil {
				t.Fatal(err)
			}
		}
		if left == "guards" {
			if err := errors.Join(host.SwapOff(device), host.DetachLoop(device)); err != nil {
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
		text, err := os.ReadFile(keeper.RunDir + "/.state/guards.json")
		if err != nil && !os.IsNotExist(err) || strings.Contains(string(text), `"`+s.point+`"`) {
			t.Errorf("guards are still remembered for %s: %v\n%s", s.point, err, text)
		}
	}
}
