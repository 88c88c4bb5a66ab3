package integration

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zramfs/zramfs/internal/host"
)

// roleStream is a process that writes and reads until it is told to stop or
// meets an error.
const roleStream = "stream"

// stream writes and verifies pages from the page args[1] of the disk args[0],
// opened with O_DIRECT. On SIGTERM it ends well.
func stream(args []string, stop <-chan os.Signal) error {
	f, err := os.OpenFile(args[0], os.O_RDWR|unix.O_DIRECT, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	var first int64
	if _, err := fmt.Sscan(args[1], &first); err != nil {
		return err
	}
	const pages = 64
	mem, err := unix.Mmap(-1, 0, 2*pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return err
	}
	mine, back := mem[:pageSize], mem[pageSize:]
	for round := 0; ; round++ {
		select {
		case <-stop:
			return nil
		default:
		}
		for i := range pageSize / sectorSize {
			sector(mine[i*sectorSize:(i+1)*sectorSize], i, round)
		}
		off := (first + int64(round%pages)) * pageSize
		if _, err := f.WriteAt(mine, off); err != nil {
			return fmt.Errorf("round %d: %w", round, err)
		}
		if _, err := f.ReadAt(back, off); err != nil {
			return fmt.Errorf("round %d: %w", round, err)
		}
		if !bytes.Equal(mine, back) {
			return fmt.Errorf("round %d was not read back", round)
		}
	}
}

// streaming starts such a process on a device or a loop device of it, and waits
// until it is at work.
func streaming(m *mnt, id int, target string, page int) *exec.Cmd {
	m.t.Helper()
	cmd := actor(m.t, roleStream, target, fmt.Sprint(page))
	cmd.Stderr = &bytes.Buffer{} // it may end with an error that is expected
	if err := cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { _ = cmd.Process.Kill() })
	work := fmt.Sprintf("zram%d/zramfs/stream_stat", id)
	before := m.get(work)
	await(m.t, "a process that writes", func() bool { return m.get(work) != before })
	return cmd
}

// TestBusy unmounts while an open file, a file system on a loop device, and
// processes at work hold the mount. Each is named, and serving goes on.
func TestBusy(t *testing.T) {
	need(t, "/dev/loop-control", "mkfs.ext4")
	m := mount(t, "--size", "64M")
	if id := strings.TrimSpace(m.get("hot_add")); id != "1" {
		t.Fatal(id)
	}
	m.set("zram1/disksize", "16M")
	writer := streaming(m, 1, m.disk(1), 0)
	loop := m.attach()
	run(t, "mkfs.ext4", "-q", "-F", loop)
	dir := filepath.Join(scratch(t), "fs")
	mountFS(t, "ext4", loop, dir)
	sums := fill(t, dir, 4<<20)

	keeper := int(m.stat("zramfs/daemon_stat", "keeper_pid"))
	holder := fmt.Sprintf("process %d", writer.Process.Pid)
	for range 3 {
		refused(t, 3, []string{"umount", m.point}, "busy", loop, "mounted on "+dir, holder, m.disk(1))
		refused(t, 3, []string{"detach", m.point}, loop, dir)
		if err := unix.Kill(keeper, unix.SIGTERM); err != nil {
			t.Fatal(err)
		}
		refused(t, 7, []string{"mount", m.point}, "already mounted")
	}
	verify(t, dir, sums)
	run(t, "umount", dir)
	refused(t, 3, []string{"umount", m.point}, "held by loop device "+loop, holder)
	m.detach()
	refused(t, 3, []string{"umount", m.point}, "held by "+holder)
	if err := writer.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := writer.Wait(); err != nil {
		t.Errorf("the writer: %v: %s", err, writer.Stderr)
	}
	m.check()
	m.told.over = true // nobody holds it now
	if err := unix.Kill(keeper, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	nothing(t, m.point)
	refused(t, 4, []string{"umount", m.point}, "no zramfs is mounted")
}

// TestSignalOutOfSight tells a daemon to end whose mount is used through a loop
// device and cannot be seen any more where it was mounted. It goes on serving,
// says so, and ends when the loop device has.
func TestSignalOutOfSight(t *testing.T) {
	need(t, "/dev/loop-control")
	for name, hide := range map[string]func(point string) error{
		"lazy":  func(point string) error { return unix.Unmount(point, unix.MNT_DETACH) },
		"under": func(point string) error { return unix.Mount("tmpfs", point, "tmpfs", 0, "") },
	} {
		t.Run(name, func(t *testing.T) {
			dir := scratch(t)
			point := filepath.Join(dir, "mp")
			if err := os.Mkdir(point, 0o755); err != nil {
				t.Fatal(err)
			}
			daemon := exec.Command(zramfsBinary, "mount", "--foreground", "--size", "8M", point)
			words, err := os.Create(filepath.Join(dir, "words"))
			if err != nil {
				t.Fatal(err)
			}
			defer words.Close()
			daemon.Stderr = words
			if err := daemon.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = daemon.Process.Kill() }) // a keeper that did not end
			m := &mnt{t: t, point: point, told: told{over: true}}
			t.Cleanup(m.end)
			await(t, "the mount", m.serving)
			loop := m.attach()
			t.Cleanup(func() {
				if t.Failed() {
					_ = host.DetachLoop(loop) // its file may have no path any more to be found by
				}
			})
			disk, page := open(t, loop, os.O_RDWR|unix.O_DIRECT), aligned(t, pageSize)
			copy(page, "kept")
			writeAt(t, disk, 0, page)
			if err := hide(point); err != nil {
				t.Fatal(err)
			}
			if err := daemon.Process.Signal(unix.SIGTERM); err != nil {
				t.Fatal(err)
			}
			await(t, "an answer", func() bool {
				text, err := os.ReadFile(words.Name())
				_, gone := os.Readlink(proc(daemon.Process.Pid, "exe"))
				return err != nil || gone != nil || strings.Contains(string(text), "goes on serving")
			})
			writeAt(t, disk, pageSize, page)
			if got := readAt(t, disk, 0, pageSize); !bytes.Equal(got, page) {
				t.Error("the disk is not what was written")
			}
			if err := disk.Close(); err != nil {
				t.Error(err)
			}
			if name == "under" {
				run(t, "umount", point)
			}
			if err := host.DetachLoop(loop); err != nil {
				t.Error(err)
			}
			if name == "under" {
				m.umount()
			}
			ended(t, daemon, "the daemon")
			nothing(t, dir)
		})
	}
}

// TestHundredMounts uses and ends a hundred mounts; scratch sees what is left.
func TestHundredMounts(t *testing.T) {
	need(t, "/dev/loop-control")
	dir := scratch(t)
	page := corpus(t)[:pageSize]
	for i := range 100 {
		flags := []string{"--size", "1M", "--transport", transports[i/5%2]}
		m := &mnt{t: t, point: filepath.Join(dir, "mp")}
		if err := os.MkdirAll(m.point, 0o755); err != nil {
			t.Fatal(err)
		}
		zramfs(t, append([]string{"mount", m.point}, flags...)...)
		f, err := os.OpenFile(m.disk(0), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		writeAt(t, f, 0, page)
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		if i%10 == 0 {
			m.attach()
			m.detach()
		}
		m.umount()
		if left := leftovers(dir); left != nil {
			t.Fatalf("mount %d left %q behind when umount returned", i, left)
		}
	}
}

// TestKilled kills whom nobody can replace: keeper, worker and standby together,
// keeper and worker without a standby, or one of them where the worker owns the
// mount or the kernel sends nothing again, under load on the file and through a loop device. The mount ends: errors,
// nothing hangs, umount clears away what is left, the loop device goes too, and
// the place can be used again.
func TestKilled(t *testing.T) {
	need(t, "/dev/loop-control")
	worker, keeper, both := []string{"worker"}, []string{"keeper"}, []string{"keeper", "worker"}
	all := append(both, "standby")
	for _, c := range []struct {
		flags string
		who   [][]string
	}{
		{"--transport=percpu", [][]string{all}},
		{"--no-standby", [][]string{both}},
		{"--no-resend", [][]string{worker, both}},
		{"--transport=gofuse", [][]string{worker, keeper, both}},
	} {
		for _, who := range c.who {
			t.Run(c.flags+"/"+strings.Join(who, "+"), func(t *testing.T) {
				m := mount(t, "--size", "64M", c.flags, "--write-behind", "8")
				m.told.over = true
				if c.flags == "--transport=percpu" {
					standby(m)
				}
				loop := m.attach()
				writers := []*exec.Cmd{
					streaming(m, 0, m.disk(0), 0), streaming(m, 0, m.disk(0), 100), streaming(m, 0, loop, 1000),
				}
				var pids []int
				for _, name := range who {
					pids = append(pids, int(m.stat("zramfs/daemon_stat", name+"_pid")))
				}
				for _, pid := range pids[1:] { // none can clear away after another
					if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
						t.Fatal(err)
					}
				}
				for _, pid := range pids {
					if err := unix.Kill(pid, unix.SIGKILL); err != nil {
						t.Fatal(err)
					}
				}
				for i, w := range writers {
					ended(t, w, fmt.Sprintf("writer %d", i))
					if w.ProcessState.ExitCode() != 1 {
						t.Errorf("writer %d ended with %v, want an I/O error: %s", i, w.ProcessState, w.Stderr)
					}
				}
				await(t, "the end of the mount", func() bool {
					r := command(zramfsBinary, "umount", m.point)
					return r.code == 0 || r.code == 4
				})
				nothing(t, m.point)
				// Its file is gone, so it has no path any more to be known by.
				await(t, "the end of "+loop, func() bool {
					file, err := os.ReadFile("/sys/block/" + filepath.Base(loop) + "/loop/backing_file")
					return err != nil || strings.TrimSpace(string(file)) != "/dev/zram0"
				})
				again := mountAt(t, m.point, "--size", "1M")
				writeAt(t, open(t, again.disk(0), os.O_RDWR), 0, []byte("again"))
			})
		}
	}
}

// ended waits for a process, but not for ever.
func ended(t *testing.T, cmd *exec.Cmd, what string) {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case err := <-done:
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Error(err)
		}
	case <-time.After(time.Minute):
		_ = cmd.Process.Signal(syscall.SIGKILL)
		t.Fatalf("%s hangs", what)
	}
}
