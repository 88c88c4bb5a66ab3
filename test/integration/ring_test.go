package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zramfs/zramfs/internal/host"
	"github.com/zramfs/zramfs/internal/keeper"
)

const uringSwitch = "/sys/module/fuse/parameters/enable_uring"

// switchURing sets whether the kernel offers rings to new mounts, until the
// function that it gives. Other tests that mount meanwhile do not ask for one.
func switchURing(t *testing.T, to string) (back func()) {
	t.Helper()
	need(t)
	f, err := os.OpenFile(uringSwitch, os.O_RDWR, 0)
	if err != nil {
		t.Skipf("needs FUSE over io_uring (Linux 6.14): %v", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil { // other tests do the same
		t.Fatal(err)
	}
	before := make([]byte, 1)
	if _, err := f.ReadAt(before, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte(to), 0); err != nil {
		t.Skipf("needs FUSE over io_uring: %v", err)
	}
	return func() {
		if _, err := f.WriteAt(before, 0); err != nil {
			t.Error(err)
		}
		f.Close()
	}
}

// mountRing mounts with transport ring.
func mountRing(t *testing.T, flags ...string) *mnt {
	t.Helper()
	defer switchURing(t, "Y")()
	return mount(t, append([]string{"--transport", "ring"}, flags...)...)
}

// ringSwap is swap with transport ring, that is on.
func ringSwap(t *testing.T, size string) (s *swap, devices string) {
	t.Helper()
	defer switchURing(t, "Y")()
	s = newSwap(t, size, []string{"--transport", "ring"})
	return s, s.on()
}

// ringDeaths are all deaths that leave the keeper alone.
func ringDeaths() []death {
	return slices.DeleteFunc(deaths(), func(d death) bool { return d.name == "the keeper" })
}

// ringKills is how many kills a load gets.
func ringKills(t *testing.T) int {
	if os.Getenv(killsEnv) == "" {
		return long(6, 2000)
	}
	return kills(t)
}

// TestRingSurviveFile is TestSurviveFile on a ring, as are the next two.
func TestRingSurviveFile(t *testing.T) {
	need(t, "fio")
	m := mountRing(t, "--size", "512M", "--write-behind", "64")
	load := startFio(t, m.disk(0))
	k := newKiller(m)
	k.run(ringKills(t), ringDeaths())
	load.end()
	k.healthy()
}

func TestRingSurviveLoop(t *testing.T) {
	need(t, "fio", "/dev/loop-control")
	m := mountRing(t, "--size", "512M")
	load := startFio(t, m.attach())
	k := newKiller(m)
	k.run(ringKills(t), ringDeaths())
	load.end()
	m.detach()
	k.healthy()
}

func TestRingSurviveSwap(t *testing.T) {
	need(t, "/dev/loop-control", "mkswap", "swapoff")
	needMemcg(t)
	s, device := ringSwap(t, "512M")
	load := startSwapper(t, s)
	k := newKiller(s.mnt)
	k.run(ringKills(t), ringDeaths())
	load.end()
	k.healthy()
	s.off(device)
}

// TestRingWorkerKilled kills workers under programs that write and verify every
// byte, with and without a standby, on memory that could be swapped out, too.
func TestRingWorkerKilled(t *testing.T) {
	need(t, "/dev/loop-control")
	for _, flag := range []string{"--allow-other", "--no-standby", "--memfd"} { // the first changes nothing
		t.Run(flag, func(t *testing.T) {
			m := mountRing(t, "--size", "64M", "--write-behind", "8", flag)
			programs := working(m)
			k := newKiller(m)
			for _, sig := range []unix.Signal{unix.SIGKILL, unix.SIGSEGV, unix.SIGKILL, unix.SIGABRT, unix.SIGKILL} {
				k.signal(k.worker(), sig)
				k.survived++
			}
			unharmed(t, programs)
			k.healthy()
			if n := m.stat("zramfs/crash_stat", "poisoned"); n != 0 {
				t.Errorf("%d requests were answered with EIO", n)
			}
		})
	}
}

// TestRingOnce adds devices while workers die: each request for one makes one.
func TestRingOnce(t *testing.T) {
	m := mountRing(t, "--size", "8M")
	k := newKiller(m)
	done := make(chan struct{})
	added := 0
	go func() {
		defer close(done)
		for range 24 {
			if _, err := os.ReadFile(filepath.Join(m.point, "sys/class/zram-control/hot_add")); err != nil {
				t.Errorf("hot_add: %v", err)
				return
			}
			added++
		}
	}()
	for range 8 {
		time.Sleep(time.Duration(k.rng.IntN(20)) * time.Millisecond)
		k.signal(k.worker(), unix.SIGKILL)
		k.survived++
		k.generation()
	}
	<-done
	if n := len(m.devices()); n != 1+added {
		t.Errorf("%d devices after %d were added to one", n, added)
	}
	k.healthy()
}

// TestRingDeadlyRequest is TestDeadlyRequest on a ring.
func TestRingDeadlyRequest(t *testing.T) {
	need(t)
	deadlyRequest(t, func(binary, point string) {
		defer switchURing(t, "Y")()
		run(t, binary, "mount", "--transport", "ring", "--size", "8M", point)
	})
}

// TestRingUpgrade replaces the worker's program under load. The keeper keeps its
// own, and says so.
func TestRingUpgrade(t *testing.T) {
	need(t, "/dev/loop-control")
	m := mountRing(t, "--size", "64M", "--write-behind", "8")
	programs := working(m)
	k := newKiller(m)
	before := k.keeper()
	programs0 := lockedPrograms(t, before)
	for range long(2, 50) {
		var u keeper.Upgraded
		if err := json.Unmarshal([]byte(zramfs(t, "upgrade", m.point, "--json")), &u); err != nil {
			t.Fatal(err)
		}
		k.survived++
		if u.Worker != k.worker() || u.Generation != k.generation() || u.Keeper != before || k.keeper() != before ||
			!strings.Contains(u.KeeperKept, "transport ring") {
			t.Errorf("%+v", u)
		}
	}
	if n := lockedPrograms(t, before); n <= programs0 {
		t.Errorf("the keeper has %d bytes of programs locked, before the upgrade %d: the next worker's could be swapped out", n, programs0)
	}
	k.signal(k.worker(), unix.SIGKILL)
	k.survived++
	unharmed(t, programs)
	k.healthy()
}

// lockedPrograms is how many bytes of programs in memory a process has locked.
func lockedPrograms(t *testing.T, pid int) (n int64) {
	t.Helper()
	all, err := host.Mappings(pid)
	if err != nil {
		t.Skipf("needs to look at a daemon's memory: %v", err)
	}
	for _, m := range all {
		if m.Locked && strings.Contains(m.Name, "memfd:zramfs ") {
			n += m.Size
		}
	}
	return n
}

// TestRingTogether has several mounts of both kinds at once, and many writers.
func TestRingTogether(t *testing.T) {
	mounts := []*mnt{mountRing(t, "--size", "32M"), mountRing(t, "--size", "32M"), mount(t, "--size", "32M")}
	var wg sync.WaitGroup
	for i, m := range mounts {
		for j := range int64(8) {
			wg.Go(func() {
				f, err := os.OpenFile(m.disk(0), os.O_RDWR|unix.O_DIRECT, 0)
				if err != nil {
					t.Error(err)
					return
				}
				defer f.Close()
				b := aligned(t, 1<<20)
				for n := range 8 {
					for at := 0; at < len(b); at += 64 {
						copy(b[at:], fmt.Sprint(i, j, n, at))
					}
					got := aligned(t, 1<<20)
					if _, err := f.WriteAt(b, j<<20); err != nil {
						t.Error(err)
					} else if _, err := f.ReadAt(got, j<<20); err != nil || !bytes.Equal(got, b) {
						t.Errorf("mount %d, writer %d, round %d: other bytes, %v", i, j, n, err)
					}
				}
			})
		}
	}
	wg.Wait()
	for _, m := range mounts {
		await(t, "no request of the kernel waits", func() bool { return waiting(t, m.point) == 0 })
		m.end()
		nothing(t, m.point)
	}
}

// TestRingRefused: where there are no rings it says what to do, and leaves
// everything as it was.
func TestRingRefused(t *testing.T) {
	defer switchURing(t, "N")()
	point := filepath.Join(scratch(t), "mp")
	if err := os.Mkdir(point, 0o755); err != nil {
		t.Fatal(err)
	}
	refusal(t, command(zramfsBinary, "mount", "--transport", "ring", point), 8, "fuse.enable_uring=N", "--enable-uring", "percpu")
	refusal(t, command(zramfsBinary, "mount", "--enable-uring", point), 2, "--transport ring")
	nothing(t, point)
	if text, err := os.ReadFile(uringSwitch); err != nil || string(text) != "N\n" {
		t.Errorf("the switch is %q, %v", text, err)
	}
	m := mountAt(t, point, "--transport", "ring", "--enable-uring", "--size", "8M")
	if text, err := os.ReadFile(uringSwitch); err != nil || string(text) != "Y\n" {
		t.Errorf("the switch is %q, %v", text, err)
	}
	m.end()
}
