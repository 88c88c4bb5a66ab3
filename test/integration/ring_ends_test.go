package integration

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zramfs/zramfs/internal/host"
)

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
