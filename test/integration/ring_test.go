package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
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

// TestRingKeeperKilled kills the keeper under load: who uses the disk gets an
// error, nobody waits for ever, and nothing is left.
func TestRingKeeperKilled(t *testing.T) {
	need(t, "/dev/loop-control")
	for _, also := range []string{"nobody", "worker", "standby"} {
		t.Run(also, func(t *testing.T) {
			m := mountRing(t, "--size", "64M", "--write-behind", "8")
			m.told.over = true
			standby(m)
			if told := m.get("zramfs/daemon_stat"); !strings.Contains(told, "the death of the keeper ends the mount") {
				t.Errorf("what a crash means is not told:\n%s", told)
			}
			programs := working(m)
			k := newKiller(m)
			pids := []int{k.keeper()}
			if also != "nobody" {
				pids = append(pids, int(m.stat("zramfs/daemon_stat", also+"_pid")))
			}
			for _, pid := range pids {
				k.signal(pid, unix.SIGKILL)
			}
			for i, p := range programs {
				if ended(t, p, "a program whose disk is gone"); p.ProcessState.ExitCode() == 0 {
					t.Errorf("program %d met no error", i)
				}
			}
			_ = command(zramfsBinary, "umount", m.point) // if who was left could not
			nothing(t, m.point)
		})
	}
}

// TestRingEnds unmounts, or tells the keeper to end, with requests under way just
// before, and while a worker is being replaced.
func TestRingEnds(t *testing.T) {
	for _, way := range []string{"umount", "SIGTERM"} {
		for _, delay := range []time.Duration{-1, 0, 5, 20} {
			t.Run(fmt.Sprint(way, delay), func(t *testing.T) {
				m := mountRing(t, "--size", "8M")
				m.told.over = true
				k := newKiller(m)
				before := k.keeper()
				if delay >= 0 {
					k.signal(k.worker(), unix.SIGKILL)
					time.Sleep(delay * time.Millisecond)
				}
				if way == "umount" {
					if r := command(zramfsBinary, "umount", m.point); r.code != 0 {
						t.Errorf("umount: exit code %d: %s", r.code, r.err)
					}
				} else {
					k.signal(before, unix.SIGTERM)
				}
				nothing(t, m.point)
			})
		}
	}
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

// TestSuccessorKilledEarly kills the first worker, and the next one as soon as it
// is there, before it is told to serve: another follows.
func TestSuccessorKilledEarly(t *testing.T) {
	for _, transport := range []string{"percpu", "ring"} {
		t.Run(transport, func(t *testing.T) {
			need(t)
			m := (*mnt)(nil)
			if transport == "ring" {
				m = mountRing(t, "--size", "8M", "--no-standby")
			} else {
				needResend(t)
				m = mount(t, "--size", "8M", "--no-standby")
			}
			k := newKiller(m)
			first := k.worker()
			k.signal(first, unix.SIGKILL)
			k.survived++
			await(t, "another worker", func() bool {
				pids := k.workers()
				return len(pids) == 1 && pids[0] != first && unix.Kill(pids[0], unix.SIGKILL) == nil
			})
			k.healthy()
		})
	}
}

// TestRingKeeperKilledSwap kills the keeper of a swap on a ring. The program whose
// pages lie there is told by a signal if it touches one; nobody hangs, and
// swapoff works.
func TestRingKeeperKilledSwap(t *testing.T) {
	need(t, "/dev/loop-control", "mkswap", "swapoff")
	needMemcg(t)
	s, devices := ringSwap(t, "256M")
	k := newKiller(s.mnt)
	cmd := exec.Command(swapperBinary, "-json", "-size", "64M", "-limit", "32M", "-corpus", "../../testdata/pages.zst", "-touches", "2000000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	await(t, "something in swap", func() bool { return swapUsed(t, devices) > 1<<20 })
	s.told.over = true
	k.signal(k.keeper(), unix.SIGKILL)
	await(t, "the end of all processes", func() bool { return len(k.workers()) == 0 })
	time.Sleep(100 * time.Millisecond)
	// It may not have touched one yet, or have other swap besides. By SIGTERM it
	// waits for the program that has the pages: swapoff would meet one that dies.
	_ = cmd.Process.Signal(unix.SIGTERM)
	ended(t, cmd, "a program whose pages are gone")
	if cmd.ProcessState.Success() {
		t.Error("it has come to its end")
	}
	s.off(devices)
}

// TestRingStopped aborts a mount whose worker is stopped, with requests open on
// every CPU: all get errors.
func TestRingStopped(t *testing.T) {
	m := mountRing(t, "--size", "8M")
	m.told.over = true
	disk := open(t, m.disk(0), os.O_RDWR|unix.O_DIRECT)
	k := newKiller(m)
	worker := k.worker()
	k.signal(worker, unix.SIGSTOP)
	const readers = 16
	answers := make(chan error, readers)
	for range readers {
		go func() {
			_, err := disk.ReadAt(aligned(t, pageSize), 0)
			answers <- err
		}()
		time.Sleep(5 * time.Millisecond)
	}
	if err := host.Abort(m.point); err != nil {
		t.Fatal(err)
	}
	failed := 0
	for range readers {
		select {
		case err := <-answers:
			if err != nil {
				failed++
			}
		case <-time.After(20 * time.Second):
			_ = unix.Kill(worker, unix.SIGKILL) // or this process cannot end
			t.Fatal("a request hangs")
		}
	}
	if failed < readers/2 { // its threads stop one after another
		t.Errorf("%d of %d requests met an error", failed, readers)
	}
	if err := disk.Close(); err != nil {
		t.Error(err)
	}
	k.signal(worker, unix.SIGCONT)
	_ = command(zramfsBinary, "umount", m.point)
	nothing(t, m.point)
}
