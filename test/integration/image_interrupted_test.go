package integration

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// An interrupted check ends with its command.
func TestCheckInterrupted(t *testing.T) {
	m := mount(t, "--size", "64M")
	m.fill(imageContent(t, 16<<20))
	cmd := exec.Command(zramfsBinary, "check", m.point, "--rate", "1")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	running := func() bool { return strings.HasPrefix(m.get("zramfs/check"), "checked ") }
	await(t, "a check that runs", running)
	refused(t, 3, []string{"check", m.point}, "another check")
	if err := cmd.Process.Signal(unix.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Error("the check was not interrupted")
	}
	await(t, "its end", func() bool { return !running() })
}

// A save that is interrupted leaves no file, whatever interrupts it.
func TestSaveInterrupted(t *testing.T) {
	content := imageContent(t, 24<<20)
	m := mount(t, "--size", "64M")
	m.fill(content)
	for _, sig := range []unix.Signal{unix.SIGINT, unix.SIGTERM, unix.SIGKILL} {
		t.Run(sig.String(), func(t *testing.T) {
			dir := filepath.Join(scratch(t), "images")
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			worker := int(m.stat("zramfs/daemon_stat", "worker_pid"))
			cmd := exec.Command(zramfsBinary, "save", m.point, filepath.Join(dir, "image"))
			var words bytes.Buffer
			cmd.Stderr = &words
			// Stopped somewhere in the middle, so that it does not end by itself.
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(15 * time.Millisecond) // any moment will do
			if err := unix.Kill(worker, unix.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			signalled := cmd.Process.Signal(sig)
			if err := unix.Kill(worker, unix.SIGCONT); err != nil {
				t.Fatal(err)
			}
			err := cmd.Wait()
			switch {
			case signalled != nil || err == nil: // it was faster
				t.Logf("it ended before the signal came")
			case !empty(t, dir):
				t.Errorf("%v left a file: %s", err, &words)
			case sig != unix.SIGKILL && !strings.Contains(words.String(), "interrupted") && cmd.ProcessState.Exited():
				t.Errorf("it says %q", &words)
			}
		})
	}
	m.holds(content)
}

// A restore that is interrupted leaves an empty disk, or it was faster.
func TestRestoreInterrupted(t *testing.T) {
	content := imageContent(t, 24<<20)
	file := filepath.Join(scratch(t), "image")
	m := mount(t, "--size", "64M")
	m.fill(content)
	zramfs(t, "save", m.point, file)
	for i, pause := range []int{20, 60, 100} {
		m.set("reset", "1")
		m.set("disksize", "64M")
		cmd := exec.Command(zramfsBinary, "restore", m.point, file)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(pause) * time.Millisecond) // any moment will do
		_ = cmd.Process.Signal(unix.SIGINT)                 // it may have ended
		if err := cmd.Wait(); err == nil {
			m.holds(content)
		} else if n := m.memory().orig; n != 0 {
			t.Errorf("restore %d: %v, and %d bytes are left", i, err, n)
		}
	}
}

// A save and a check go on when their worker is killed, again and again.
func TestImageWhileWorkersDie(t *testing.T) {
	needResend(t)
	content := imageContent(t, 32<<20)
	dir := scratch(t)
	file := filepath.Join(dir, "image")
	m := mountAt(t, filepath.Join(dir, "mp"), "--size", "64M", "--algorithm", "zstd")
	m.fill(content)
	m.told.kills = true
	kills := 0
	for _, args := range [][]string{{"save", m.point, file}, {"check", m.point, "--rate", "30"}} {
		cmd := exec.Command(zramfsBinary, args...)
		var words bytes.Buffer
		cmd.Stdout, cmd.Stderr = &words, &words
		end := make(chan error, 1)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		go func() { end <- cmd.Wait() }()
		for n, done := 0, false; !done; n++ {
			select {
			case err := <-end:
				if done = true; err != nil {
					t.Fatalf("%v: %v: %s", args, err, &words)
				}
			case <-time.After(20 * time.Millisecond):
				if n < 3 {
					standby(m)
					if err := unix.Kill(int(m.stat("zramfs/daemon_stat", "worker_pid")), unix.SIGKILL); err == nil {
						kills++
					}
				}
			}
		}
	}
	if kills == 0 {
		t.Error("nobody was killed")
	}
	b := mountAt(t, filepath.Join(dir, "b"), "--size", "64M")
	zramfs(t, "restore", b.point, file)
	b.holds(content)
}

// A disk that is written while it is saved is not saved, though nobody had it
// open when the save began.
func TestSaveWhileWritten(t *testing.T) {
	content := imageContent(t, 24<<20)
	dir := scratch(t)
	m := mountAt(t, filepath.Join(dir, "mp"), "--size", "64M")
	m.fill(content)
	images := filepath.Join(dir, "images")
	if err := os.Mkdir(images, 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(zramfsBinary, "save", m.point, filepath.Join(images, "image"))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	end := make(chan error, 1)
	go func() { end <- cmd.Wait() }()
	f := open(t, m.disk(0), os.O_WRONLY)
	for written := 0; ; written++ {
		writeAt(t, f, int64(written%100)*pageSize, content[pageSize:2*pageSize])
		select {
		case <-end:
			if code := cmd.ProcessState.ExitCode(); code != 3 || !empty(t, images) {
				t.Errorf("exit code %d after %d writes", code, written)
			}
			return
		default:
		}
	}
}
