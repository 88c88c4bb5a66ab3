package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestLateAnswers has every request wait for 1 to 100 ms, under a load that
// verifies and with workers that are killed: nothing is taken for dead, and
// nothing is lost.
func TestLateAnswers(t *testing.T) {
	need(t, "/dev/loop-control")
	needResend(t)
	binary, point := faulty(t, "late"), filepath.Join(scratch(t), "mp")
	if err := os.Mkdir(point, 0o755); err != nil {
		t.Fatal(err)
	}
	run(t, binary, "mount", "--size", "16M", "--write-behind", "8", point)
	m := &mnt{t: t, point: point}
	t.Cleanup(m.end)
	programs := working(m)
	k := newKiller(m)
	for range long(3, 50) {
		time.Sleep(500 * time.Millisecond)
		k.signal(k.worker(), unix.SIGKILL)
		k.survived++
	}
	unharmed(t, programs)
	k.healthy()
	m.detach()
}

// TestNoHeir has every worker die that is to take over. Ten in a row are the end
// of the mount: who waits gets an error, and nothing is left.
func TestNoHeir(t *testing.T) {
	need(t)
	needResend(t)
	binary, point := faulty(t, "heir"), filepath.Join(scratch(t), "mp")
	if err := os.Mkdir(point, 0o755); err != nil {
		t.Fatal(err)
	}
	run(t, binary, "mount", "--size", "8M", point)
	m := &mnt{t: t, point: point, told: told{over: true}}
	t.Cleanup(m.end)
	disk, page := open(t, m.disk(0), os.O_RDWR|unix.O_DIRECT), aligned(t, pageSize)
	writeAt(t, disk, 0, page)
	k := newKiller(m)
	k.signal(k.worker(), unix.SIGKILL)
	answer := make(chan error, 1)
	go func() {
		_, err := disk.ReadAt(page, 0)
		answer <- err
	}()
	select {
	case err := <-answer:
		if err == nil {
			t.Error("a page was read that nobody has")
		}
	case <-time.After(2 * time.Minute):
		t.Error("who reads hangs")
	}
	if err := disk.Close(); err != nil {
		t.Error(err)
	}
	nothing(t, point)
}

// TestWithoutReserve swaps with a reserve that is always at its floor.
func TestWithoutReserve(t *testing.T) {
	need(t, "/dev/loop-control", "mkswap", "swapoff")
	needMemcg(t)
	s := newSwap(t, "256M", nil)
	s.start = []string{"swapon", "--name", s.name, "--size", s.size, "--priority", "32767", "--without", "reserve", "--force"}
	device := s.on()
	s.healthy(finished(t, s.loadWith("64M", "10000")))
	s.off(device)
}

// TestNoRoomForLogs lets a daemon in the foreground write what it has to say to
// a disk that is full: it goes on.
func TestNoRoomForLogs(t *testing.T) {
	need(t, "/dev/full")
	needResend(t)
	point := filepath.Join(scratch(t), "mp")
	if err := os.Mkdir(point, 0o755); err != nil {
		t.Fatal(err)
	}
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	daemon := exec.Command(zramfsBinary, "mount", "--foreground", "--size", "8M", point)
	daemon.Stdout, daemon.Stderr = full, full
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	m := &mnt{t: t, point: point}
	t.Cleanup(m.end)
	await(t, "the mount", m.serving)
	disk := open(t, m.disk(0), os.O_RDWR)
	writeAt(t, disk, 0, corpus(t)[:pageSize])
	if err := disk.Close(); err != nil {
		t.Fatal(err)
	}
	k := newKiller(m)
	for range 3 {
		standby(m)
		k.signal(k.worker(), unix.SIGKILL)
		k.survived++
		k.generation()
	}
	k.healthy()
	m.umount()
	if err := daemon.Wait(); err != nil {
		t.Error(err)
	}
}
