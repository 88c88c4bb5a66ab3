package host

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// needRoot skips a test that must make devices.
func needRoot(t *testing.T) {
	t.Helper()
	if !Capable(CapSysAdmin) {
		t.Skip("needs CAP_SYS_ADMIN")
	}
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		t.Skip("needs /dev/loop-control: ", err)
	}
}

// backingFile makes a file of size bytes on tmpfs.
func backingFile(t *testing.T, size int64) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "zramfs-host-")
	if err != nil {
		t.Skip("needs /dev/shm: ", err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	file := filepath.Join(dir, "disk")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, size); err != nil {
		t.Fatal(err)
	}
	return file
}

func attachForTest(t *testing.T, file string) Loop {
	t.Helper()
	loop, warnings, err := AttachLoop(file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if left, _ := LoopsBelow(file); len(left) > 0 {
			t.Errorf("left attached: %v", DetachLoop(loop.Path))
		}
	})
	if len(warnings) > 0 {
		t.Logf("warnings: %v", warnings)
	}
	return loop
}

// A loop device whose requests never come back is let go of all the same:
// here they wait for a file system that is frozen.
func TestReleaseStuckLoop(t *testing.T) {
	needRoot(t)
	for _, tool := range []string{"mkfs.ext4", "fsfreeze", "mount", "umount"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip("needs ", tool)
		}
	}
	outer := backingFile(t, 32<<20)
	must := func(name string, args ...string) {
		t.Helper()
		if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
			t.Fatalf("%s %v: %v\n%s", name, args, err, out)
		}
	}
	must("mkfs.ext4", "-q", outer)
	fs := t.TempDir()
	must("mount", "-o", "loop", outer, fs)
	// The kernel lets go of the file after the last user of the loop device is gone.
	defer await(t, "the file system to have no user", func() bool { return exec.Command("umount", fs).Run() == nil })
	inner := filepath.Join(fs, "disk")
	if err := os.WriteFile(inner, make([]byte, 8<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	loop := attachForTest(t, inner)
	must("fsfreeze", "--freeze", fs)
	user := exec.Command("dd", "if=/dev/zero", "of="+loop.Path, "bs=64k", "count=4", "oflag=direct")
	if err := user.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = user.Wait() }() // its data go nowhere
	await(t, "a request under way", func() bool {
		text, _ := readTrimmed(loop.sys("inflight"))
		return text != "" && !strings.HasSuffix(text, " 0")
	})
	released := make(chan error, 1)
	go func() { released <- ReleaseLoops(fs) }()
	select {
	case err := <-released:
		if err != nil {
			t.Error(err)
		}
		must("fsfreeze", "--unfreeze", fs)
	case <-time.After(time.Minute):
		t.Error("it waits for a request that never comes back")
		must("fsfreeze", "--unfreeze", fs)
		<-released
	}
}

// A loop device that is in use goes when its user does.
func TestReleaseLoops(t *testing.T) {
	needRoot(t)
	idle, used := backingFile(t, 1<<20), backingFile(t, 1<<20)
	attachForTest(t, idle)
	loop := attachForTest(t, used)
	user, err := os.OpenFile(loop.Path, os.O_RDONLY|unix.O_EXCL, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{idle, used} {
		if err := ReleaseLoops(filepath.Dir(file)); err != nil {
			t.Error(err)
		}
	}
	detached(t, idle)
	if left, err := LoopsBelow(used); len(left) != 1 || err != nil {
		t.Errorf("%v are left (%v), want the one in use", left, err)
	}
	user.Close()
	detached(t, used)
}

// detached waits for it: whoever looks at all devices of the machine, as
// others that run now may, keeps one for as long as he looks.
func detached(t *testing.T, file string) {
	t.Helper()
	await(t, "the loop device on "+file+" to be let go of", func() bool {
		left, err := LoopsBelow(file)
		return len(left) == 0 && err == nil
	})
}

// await waits for what has to happen, however slow the machine is.
func await(t *testing.T, what string, happened func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if happened() {
			return
		}
	}
	t.Errorf("it never came: %s", what)
}

// TestDetachBesidePassersBy: who looks at the device without using it, as udev
// does, delays its end, and DetachLoop comes back after it.
func TestDetachBesidePassersBy(t *testing.T) {
	needRoot(t)
	file := backingFile(t, 1<<20)
	loop := attachForTest(t, file)
	passer, err := os.Open(loop.Path)
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(100*time.Millisecond, func() { passer.Close() })
	if err := DetachLoop(loop.Path); err != nil {
		t.Fatal(err)
	}
	if left, err := LoopsBelow(file); len(left) != 0 || err != nil {
		t.Errorf("%v are left (%v)", left, err)
	}
}

func TestLoopLife(t *testing.T) {
	needRoot(t)
	file := backingFile(t, 1<<20)
	loop := attachForTest(t, file)
	for file, want := range map[string]string{
		"loop/dio": "1", "queue/stable_writes": "1", "queue/logical_block_size": "4096", "queue/iostats": "1",
	} {
		if got, err := readTrimmed(loop.sys(file)); got != want {
			t.Errorf("%s: got %q (%v), want %q", file, got, err, want)
		}
	}
	below, err := LoopsBelow(filepath.Dir(file))
	if err != nil || len(below) != 1 || below[0] != loop {
		t.Errorf("LoopsBelow: %+v, %v; want %+v", below, err, loop)
	}
	holders, err := Holders(filepath.Dir(file))
	if err != nil || len(holders) != 1 || holders[0] != "loop device "+loop.Path {
		t.Errorf("Holders: %q, %v", holders, err)
	}

	user, err := os.OpenFile(loop.Path, os.O_RDONLY|unix.O_EXCL, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := DetachLoop(loop.Path); !errors.Is(err, unix.EBUSY) {
		t.Errorf("detach in use: %v", err)
	}
	user.Close()
	if err := DetachLoop(loop.Path); err != nil {
		t.Error(err)
	}
}

func TestAttachRefusesWhatIsNoFile(t *testing.T) {
	needRoot(t)
	if _, _, err := AttachLoop(filepath.Join(t.TempDir(), "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

func TestSwapLife(t *testing.T) {
	needRoot(t)
	loop := attachForTest(t, backingFile(t, 1<<20))
	t.Cleanup(func() { DetachLoop(loop.Path) })
	if err := MakeSwap(loop.Path, "zramfs"); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("blkid", "-p", loop.Path).CombinedOutput(); err != nil {
		t.Logf("no second opinion from blkid: %v", err)
	} else if !bytes.Contains(out, []byte(`LABEL="zramfs"`)) || !bytes.Contains(out, []byte(`TYPE="swap"`)) {
		t.Errorf("blkid does not see our swap: %s", out)
	}
	if err := SwapOn(loop.Path, 0); err != nil {
		t.Fatal(err)
	}
	swaps, err := Swaps()
	found := false
	for _, s := range swaps {
		found = found || s.Path == loop.Path && s.Priority == 0 && s.Size == 1<<20-4096
	}
	if !found || err != nil {
		t.Errorf("not among the swaps: %+v, %v", swaps, err)
	}
	if err := MakeSwap(loop.Path, "zramfs"); !errors.Is(err, unix.EBUSY) {
		t.Errorf("mkswap on live swap: %v", err)
	}
	if err := SwapOff(loop.Path); err != nil {
		t.Fatal(err)
	}
	if err := SwapOff(loop.Path); !errors.Is(err, unix.EINVAL) {
		t.Errorf("swapoff twice: %v", err)
	}
}

func TestHoldersFindProcesses(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.Command("sleep", "60")
	cmd.Dir = dir
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cmd.Process.Kill(); cmd.Wait() }()
	holders, err := Holders(dir)
	if err != nil || len(holders) != 1 || !strings.Contains(holders[0], "working directory") {
		t.Errorf("got %q, %v", holders, err)
	}
}

func TestWatch(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := cmd.Process.Pid
	watch, err := Watch(pid)
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Close()
	if Gone(watch, 0) {
		t.Error("gone while it runs")
	}
	cmd.Process.Kill()
	if !Gone(watch, 60_000) {
		t.Error("still there after its death")
	}
	cmd.Wait()
	if again, err := Watch(pid); again != nil || err != nil {
		t.Errorf("watch of the dead: %v, %v", again, err)
	}
	if m, err := ProcessMemory(os.Getpid()); err != nil || m.Resident == 0 || m.Threads == 0 {
		t.Errorf("own memory: %+v, %v", m, err)
	}
	if n, _, err := ThreadsFlushing(os.Getpid()); err != nil || n == 0 {
		t.Errorf("own threads: %d, %v", n, err)
	}
}
