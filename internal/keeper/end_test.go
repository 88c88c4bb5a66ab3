package keeper

import (
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zramfs/zramfs/internal/fuseconn"
)

// mountedKeeper is an idle keeper of a mount that nobody answers on, and the
// file that it says things to.
func mountedKeeper(t *testing.T) (k *keeper, point string, said func() string) {
	t.Helper()
	k = idleKeeper(t)
	point = k.boot.Config.Mountpoint
	f, err := fuseconn.Mount(point, fuseconn.MountOptions{})
	if err != nil {
		t.Skipf("mounting needs root, and /dev/fuse: %v", err)
	}
	t.Cleanup(func() {
		f.Close()
		_ = unix.Unmount(point, unix.MNT_DETACH) // most are gone
	})
	k.held.fuse = []*os.File{f}
	if k.dev, err = deviceOf(point); err != nil || k.dev == "" {
		t.Fatalf("device %q, %v", k.dev, err)
	}
	if k.log, err = os.Create(t.TempDir() + "/log"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { k.log.Close() })
	k.worker = sleeper(t, k, serving)
	return k, point, func() string {
		text, err := os.ReadFile(k.log.Name())
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
}

// holds has another process hold a directory until it is let go.
func holds(t *testing.T, dir string) (letGo func()) {
	t.Helper()
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), dir)
	defer f.Close()
	cmd := exec.Command("sleep", "1000")
	cmd.ExtraFiles = []*os.File{f}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
}

// terminated tells a keeper to end, and does its work until it has an answer.
func terminated(k *keeper) {
	k.terminate(unix.SIGTERM)
	for k.leaving && !k.finished {
		(<-k.calls)()
	}
	if k.finished {
		(<-k.calls)() // what is to be said
	}
}

// TestSignalOutOfSight: a mount that is used goes on serving, also when it is
// not to be seen where it was mounted.
func TestSignalOutOfSight(t *testing.T) {
	for name, hide := range map[string]func(point string) error{
		"lazy":  func(point string) error { return unix.Unmount(point, unix.MNT_DETACH) },
		"under": func(point string) error { return unix.Mount("tmpfs", point, "tmpfs", 0, "") },
	} {
		t.Run(name, func(t *testing.T) {
			k, point, said := mountedKeeper(t)
			letGo := holds(t, point)
			defer letGo()
			if err := hide(point); err != nil {
				t.Fatal(err)
			}
			terminated(k)
			if k.finished || !strings.Contains(said(), "out of sight") {
				t.Errorf("ended %v: %s", k.finished, said())
			}
			letGo()
			if name == "under" {
				if err := unix.Unmount(point, 0); err != nil {
					t.Fatal(err)
				}
			}
			for end := time.Now().Add(hangTime); name == "lazy" && !k.held.over() && time.Now().Before(end); {
				time.Sleep(time.Millisecond)
			}
			if terminated(k); !k.finished || k.result != nil {
				t.Errorf("nobody uses it, and it goes on: %s", said())
			}
		})
	}
}

// TestSignalBusy: while it is found out who holds the mount the keeper does what
// else there is to do, and then says it.
func TestSignalBusy(t *testing.T) {
	k, point, said := mountedKeeper(t)
	letGo := holds(t, point)
	defer letGo()
	standby := sleeper(t, k, prepared)
	k.standby = standby
	k.terminate(unix.SIGTERM)
	if text := said(); text != "" {
		t.Fatalf("the keeper has looked for who holds it before it did anything else: %s", text)
	}
	(<-k.calls)() // unmount
	end(k, k.worker)
	if k.worker != standby {
		t.Error("the standby is not the worker")
	}
	k.terminate(unix.SIGTERM) // at work already
	for k.leaving {
		(<-k.calls)()
	}
	if text := said(); k.finished || !strings.Contains(text, "busy, held by process") || strings.Count(text, "goes on serving") != 1 {
		t.Errorf("ended %v: %s", k.finished, text)
	}
}
