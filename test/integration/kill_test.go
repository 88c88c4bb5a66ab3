package integration

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// standby waits until a second worker is ready, and gives its process number.
func standby(m *mnt) int {
	m.t.Helper()
	pid := 0
	await(m.t, "a standby", func() bool {
		pid = int(m.stat("zramfs/daemon_stat", "standby_pid"))
		return pid != 0
	})
	return pid
}

// working starts programs that write and verify, on the file and through a
// loop device.
func working(m *mnt) []*exec.Cmd {
	m.t.Helper()
	loop := m.attach()
	return []*exec.Cmd{
		streaming(m, 0, m.disk(0), 0), streaming(m, 0, m.disk(0), 100), streaming(m, 0, loop, 1000),
	}
}

// unharmed ends them: none has met an error.
func unharmed(t *testing.T, programs []*exec.Cmd) {
	t.Helper()
	for i, w := range programs {
		_ = w.Process.Signal(unix.SIGTERM) // it may have failed
		if ended(t, w, "a program at work"); w.ProcessState.ExitCode() != 0 {
			t.Errorf("program %d at work: %v: %s", i, w.ProcessState, w.Stderr)
		}
	}
}

// TestWorkerKilled kills workers in every way, with and without a standby.
func TestWorkerKilled(t *testing.T) {
	need(t, "/dev/loop-control")
	needResend(t)
	for _, flag := range []string{"--allow-other", "--no-standby", "--memfd"} { // the first changes nothing
		t.Run(flag, func(t *testing.T) {
			m := mount(t, "--size", "64M", "--write-behind", "8", flag)
			programs := working(m)
			k := newKiller(m)
			for i, sig := range []unix.Signal{
				unix.SIGKILL, unix.SIGSEGV, unix.SIGKILL, unix.SIGABRT, unix.SIGKILL, unix.SIGBUS, unix.SIGKILL,
			} {
				if i%2 == 0 && flag != "--no-standby" {
					standby(m)
				}
				k.signal(k.worker(), sig)
				k.survived++
			}
			unharmed(t, programs)
			k.healthy()
			if n := m.stat("zramfs/crash_stat", "faults"); n != 3 {
				t.Errorf("%d faults, want 3", n)
			}
			if n := m.stat("zramfs/crash_stat", "poisoned"); n != 0 {
				t.Errorf("%d requests were answered with EIO", n)
			}
		})
	}
}

// TestKeeperKilled kills keepers: the device goes on, with another keeper and a
// worker of its own, each time; then a worker, who is replaced; then both.
func TestKeeperKilled(t *testing.T) {
	need(t, "/dev/loop-control")
	needResend(t)
	m := mount(t, "--size", "64M", "--write-behind", "8")
	programs := working(m)
	k := newKiller(m)
	for round := range int64(3) {
		keeper, generation := int(m.stat("zramfs/daemon_stat", "keeper_pid")), k.generation()
		k.signal(keeper, unix.SIGKILL)
		await(t, "a keeper that has a worker of its own", func() bool {
			return m.stat("zramfs/crash_stat", "keepers") == round+1 && k.generation() > generation
		})
		if again := int(m.stat("zramfs/daemon_stat", "keeper_pid")); again == keeper {
			t.Errorf("the keeper is still %d", keeper)
		}
		if round == 1 { // it is a keeper as good as the first
			k.signal(k.worker(), unix.SIGKILL)
			k.survived++
		}
	}
	unharmed(t, programs)
	k.healthy()
	if n := m.stat("zramfs/crash_stat", "deaths"); n != 1 {
		t.Errorf("%d deaths of workers are counted, want 1: keepers kill without harm", n)
	}
	m.detach()
	m.umount()
	nothing(t, m.point)
}

// TestEndsInAnyPhase unmounts, or tells the keeper to end, twice, while a worker
// or a keeper is just being replaced. Nothing is left behind.
func TestEndsInAnyPhase(t *testing.T) {
	need(t)
	needResend(t)
	every := []time.Duration{0, 5, 15, 40}
	ends := map[string][]time.Duration{"umount": long(every[1:3], every), "SIGTERM": long([]time.Duration{0, 40}, every)}
	for _, who := range []string{"worker", "keeper", "standby"} {
		for _, way := range []string{"umount", "SIGTERM"} {
			for _, delay := range ends[way] {
				t.Run(who+"/"+way, func(t *testing.T) {
					m := mount(t, "--size", "8M")
					m.told.kills, m.told.over = true, true
					standby(m)
					keeper := int(m.stat("zramfs/daemon_stat", "keeper_pid"))
					if err := unix.Kill(int(m.stat("zramfs/daemon_stat", who+"_pid")), unix.SIGKILL); err != nil {
						t.Fatal(err)
					}
					time.Sleep(delay * time.Millisecond)
					if way == "umount" || who == "keeper" {
						r := command(zramfsBinary, "umount", m.point)
						if r.code != 0 {
							t.Errorf("umount: exit code %d: %s", r.code, r.err)
						}
						refusal(t, command(zramfsBinary, "umount", m.point), 4, "no zramfs is mounted")
					} else {
						for range 2 {
							_ = unix.Kill(keeper, unix.SIGTERM) // the second may find nobody
						}
					}
					nothing(t, m.point)
				})
			}
		}
	}
}

// TestKeeperAndWorker kills both, in either order and some time apart: the one
// that stands by takes over, and nobody sees an error.
func TestKeeperAndWorker(t *testing.T) {
	need(t, "/dev/loop-control")
	needResend(t)
	m := mount(t, "--size", "8M", "--write-behind", "8")
	programs := working(m)
	k := newKiller(m)
	for i := range long(8, 200) {
		standby(m)
		pids := []int{k.worker(), k.keeper()}
		if i%2 == 1 {
			slices.Reverse(pids)
		}
		for _, pid := range pids {
			k.signal(pid, unix.SIGKILL)
			time.Sleep(time.Duration(i/2%8) * time.Millisecond)
		}
		await(t, "another keeper", func() bool { return k.keeper() != pids[(i+1)%2] })
	}
	unharmed(t, programs)
	k.healthy()
	m.detach()
	m.umount()
	nothing(t, m.point)
}

// deadOrGone says whether nobody serves a mount, or there is none.
func deadOrGone(point string) bool {
	entries, err := os.ReadDir(point)
	return err != nil || len(entries) == 0
}

// TestDeadlyRequest writes what kills whoever serves it. After two deaths it gets
// an I/O error, and everything else goes on.
func TestDeadlyRequest(t *testing.T) {
	need(t)
	needResend(t)
	deadlyRequest(t, func(binary, point string) { run(t, binary, "mount", "--size", "8M", point) })
}

// deadlyRequest is the test with a mount that mounted makes of a binary that
// dies of one write.
func deadlyRequest(t *testing.T, mounted func(binary, point string)) {
	binary := faulty(t, "write")
	point := filepath.Join(scratch(t), "mp")
	if err := os.Mkdir(point, 0o755); err != nil {
		t.Fatal(err)
	}
	mounted(binary, point)
	m := &mnt{t: t, point: point, told: told{faults: 4, poisoned: 2}}
	t.Cleanup(m.end)
	disk := open(t, m.disk(0), os.O_RDWR|unix.O_DIRECT)
	page := aligned(t, pageSize)
	copy(page, "kept")
	for round := int64(1); round <= 2; round++ {
		writeAt(t, disk, 0, page)
		if _, err := disk.WriteAt(page, 1<<20-pageSize); !errors.Is(err, unix.EIO) {
			t.Errorf("the deadly write: %v, want %v", err, unix.EIO)
		}
		writeAt(t, disk, 1<<20, page)
		if got := readAt(t, disk, 0, pageSize); !bytes.Equal(got, page) {
			t.Error("the disk is not what was written")
		}
		for name, want := range map[string]int64{"deaths": 2 * round, "faults": 2 * round, "poisoned": round} {
			await(t, fmt.Sprintf("%s %d in crash_stat", name, want), func() bool {
				return m.stat("zramfs/crash_stat", name) == want
			})
		}
	}
	if text := m.get("zramfs/crash_stat"); !strings.Contains(text, "last_reason exit status 2: panic: a fault") {
		t.Errorf("the reason is not told:\n%s", text)
	}
	if err := disk.Close(); err != nil {
		t.Error(err)
	}
}

// TestStopped looks at a mount whose worker is stopped, and ends it.
func TestStopped(t *testing.T) {
	need(t)
	m := mount(t, "--size", "8M")
	m.told.over = true
	worker := int(m.stat("zramfs/daemon_stat", "worker_pid"))
	if err := unix.Kill(worker, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	// A thread that takes a request before it stops keeps the command from ending.
	await(t, "all its threads to stop", func() bool { return stopped(worker) })
	refusal(t, command(zramfsBinary, "status", m.point), 1, "nobody answered on "+m.point)
	other := mount(t, "--size", "8M") // which the stopped one does not hide
	r := command(zramfsBinary, "status", "-n", "-o", "MOUNTPOINT", m.point, other.point)
	if r.code != 1 || r.out != other.point+"\n" {
		t.Errorf("status of this mount and another: %+v", r)
	}
	zramfs(t, "umount", m.point)
	nothing(t, m.point)
}

// TestStoppedKeeper: commands do not wait for ever for a keeper that is stopped,
// and nothing has changed when it goes on.
func TestStoppedKeeper(t *testing.T) {
	need(t)
	m := mount(t, "--size", "8M")
	keeper := int(m.stat("zramfs/daemon_stat", "keeper_pid"))
	if err := unix.Kill(keeper, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Kill(keeper, unix.SIGCONT) }() // gone, where all went well
	for _, args := range [][]string{{"umount", m.point}, {"upgrade", m.point}} {
		refusal(t, command(zramfsBinary, args...), 1, "the keeper of "+m.point+" has not answered")
	}
	if err := unix.Kill(keeper, unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	m.umount()
	nothing(t, m.point)
}

// stopped says whether no thread of a process can run.
func stopped(pid int) bool {
	stats, _ := filepath.Glob(proc(pid, "task/*/stat"))
	return len(stats) > 0 && !slices.ContainsFunc(stats, func(file string) bool {
		text, err := os.ReadFile(file)
		_, state, _ := bytes.Cut(text, []byte(") ")) // after the name
		return err != nil || !bytes.HasPrefix(state, []byte("T"))
	})
}

// TestCrashTold: who looks beforehand is told what a crash would mean.
func TestCrashTold(t *testing.T) {
	need(t)
	for flag, want := range map[string]string{
		"--transport=percpu": "another worker takes over",
		"--no-resend":        "the mount ends and who uses the disk gets I/O errors, since this kernel",
		"--transport=gofuse": "the mount ends and who uses the disk gets I/O errors, as always",
	} {
		m := mount(t, "--size", "8M", flag)
		if text := m.get("zramfs/daemon_stat"); !strings.Contains(text, "\ncrash "+want) {
			t.Errorf("%s: %q is not told:\n%s", flag, want, text)
		}
	}
}
