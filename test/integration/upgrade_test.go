package integration

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zramfs/zramfs/internal/keeper"
)

// faulty builds the program with something wrong in it.
func faulty(t *testing.T, fault string) string {
	t.Helper()
	path := filepath.Join(scratch(t), "zramfs-"+fault)
	build := exec.Command("go", "build", "-tags", "faulty", "-o", path,
		"-ldflags", "-X github.com/zramfs/zramfs/internal/keeper.fault="+fault, "../../cmd/zramfs")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Skipf("needs a Go toolchain: %v\n%s", err, out)
	}
	return path
}

// inode tells one program from another.
func inode(t *testing.T, path string) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); errors.Is(err, unix.EACCES) {
		t.Skipf("needs to look at what a daemon runs (CAP_SYS_PTRACE): %v", err)
	} else if err != nil {
		t.Fatal(err)
	}
	return st.Ino
}

func proc(pid int, file string) string { return filepath.Join("/proc", strconv.Itoa(pid), file) }

// TestUpgrade replaces the program under load, again and again. Worker and
// keeper become the new one.
func TestUpgrade(t *testing.T) {
	need(t, "/dev/loop-control")
	needResend(t)
	m := mount(t, "--size", "64M", "--write-behind", "8")
	programs := working(m)
	k := newKiller(m)
	keeperPID := int(m.stat("zramfs/daemon_stat", "keeper_pid"))
	before := inode(t, proc(keeperPID, "exe"))
	for range long(3, 50) {
		var u keeper.Upgraded
		if err := json.Unmarshal([]byte(zramfs(t, "upgrade", m.point, "--json")), &u); err != nil {
			t.Fatal(err)
		}
		k.survived++
		if u.Worker != k.worker() || u.Generation != k.generation() || u.Keeper != keeperPID || u.Pause <= 0 ||
			u.Longest <= 0 || u.KeeperKept != "" {
			t.Errorf("%+v", u)
		}
		now := inode(t, proc(keeperPID, "exe"))
		if now == before || now != inode(t, proc(u.Worker, "exe")) {
			t.Errorf("the keeper runs %d, before %d, the worker %d", now, before, inode(t, proc(u.Worker, "exe")))
		}
		before = now
		t.Logf("pause %d us, longest wait %d us", u.Pause, u.Longest)
	}
	// What serves now is as good as what was started.
	k.signal(k.worker(), unix.SIGKILL)
	k.survived++
	k.generation()
	k.signal(keeperPID, unix.SIGKILL)
	await(t, "another keeper", func() bool { return m.stat("zramfs/crash_stat", "keepers") == 1 })
	k.generation()
	unharmed(t, programs)
	k.healthy()
}

// TestUpgradeRefused tries programs that are none of ours, or not fit. The one
// that serves goes on, and nothing is left of the others.
func TestUpgradeRefused(t *testing.T) {
	need(t)
	needResend(t)
	m := mount(t, "--size", "8M")
	programs := []*exec.Cmd{streaming(m, 0, m.disk(0), 0)}
	dir := scratch(t)
	text := filepath.Join(dir, "text")
	script := filepath.Join(dir, "script")
	plain := filepath.Join(dir, "plain")
	for path, content := range map[string]string{text: "hello\n", script: "#!/bin/sh\nexit 3\n", plain: "\n"} {
		mode := os.FileMode(0o755)
		if path == plain {
			mode = 0o644
		}
		if err := os.WriteFile(path, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
	}
	worker, generation := m.stat("zramfs/daemon_stat", "worker_pid"), m.stat("zramfs/daemon_stat", "generation")
	for binary, words := range map[string][]string{
		"/bin/true":                   {"refused", "it is not zramfs"},
		script:                        {"refused", "it is not zramfs"},
		text:                          {"cannot be executed"},
		plain:                         {"cannot be executed", "chmod"},
		dir:                           {"not a file"},
		filepath.Join(dir, "missing"): {"no such file"},
		faulty(t, "start"):            {"refused", "crashes at start", "a fault that was asked for"},
		faulty(t, "older"):            {"refused", "older", "format"},
		faulty(t, "newer"):            {"refused", "this program reads format"},
	} {
		refused(t, 2, []string{"upgrade", m.point, "--binary", binary}, words...)
	}
	if m.stat("zramfs/daemon_stat", "worker_pid") != worker || m.stat("zramfs/daemon_stat", "generation") != generation {
		t.Error("another worker serves")
	}
	// Those that show only later that they are not fit are replaced again.
	m.told.kills = true // one dies when it is to serve
	for fault, words := range map[string][]string{
		"check": {"the one before serves again", "check"},
		"die":   {"the one before serves again", "exit status 1"},
	} {
		refused(t, 1, []string{"upgrade", m.point, "--binary", faulty(t, fault)}, words...)
	}
	zramfs(t, "upgrade", m.point)
	unharmed(t, programs)
	for flag, words := range map[string]string{
		"--no-resend":        "does not send requests again",
		"--transport=gofuse": "transport gofuse",
	} {
		other := mount(t, "--size", "8M", flag)
		r := command(zramfsBinary, "upgrade", other.point)
		refusal(t, r, r.code, words)
	}
	refused(t, 4, []string{"upgrade", dir}, "no zramfs is mounted")
}

// TestUpgradeEnds kills, unmounts or ends while an upgrade is under way.
func TestUpgradeEnds(t *testing.T) {
	need(t)
	needResend(t)
	every := []time.Duration{3, 20, 60, 300, 1100}
	for i, what := range []string{"umount", "SIGTERM", "worker", "keeper"} {
		for _, delay := range long([][]time.Duration{{3, 60, 1100}, {20, 300}}[(i+i/2)%2], every) {
			t.Run(what, func(t *testing.T) {
				m := mount(t, "--size", "8M")
				m.told.kills, m.told.over = true, true
				standby(m)
				keeperPID := int(m.stat("zramfs/daemon_stat", "keeper_pid"))
				upgrade := exec.Command(zramfsBinary, "upgrade", m.point)
				if err := upgrade.Start(); err != nil {
					t.Fatal(err)
				}
				time.Sleep(delay * time.Millisecond)
				switch what {
				case "umount":
					m.umountSoon()
				case "SIGTERM":
					for range 2 {
						_ = unix.Kill(keeperPID, unix.SIGTERM)
					}
					// The command itself may have held the mount just then.
					_ = upgrade.Wait()
					if m.serving() {
						m.umount()
					}
				default:
					pid := keeperPID
					if what == "worker" {
						pid = int(m.stat("zramfs/daemon_stat", "worker_pid"))
					}
					_ = unix.Kill(pid, unix.SIGKILL)
					_ = upgrade.Wait() // it may have failed
					// A keeper may have died just when it had killed the worker.
					await(t, "an answer or an end", func() bool { return m.serving() || deadOrGone(m.point) })
					if m.serving() {
						m.check()
					} else if what == "worker" {
						t.Error("the mount ended")
					}
					m.umountSoon()
				}
				if upgrade.ProcessState == nil {
					_ = upgrade.Wait()
				}
				nothing(t, m.point)
			})
		}
	}
}

// umountSoon unmounts as soon as no command is inside.
func (m *mnt) umountSoon() {
	m.t.Helper()
	await(m.t, "umount", func() bool {
		r := command(zramfsBinary, "umount", m.point)
		if r.code != 0 && r.code != 4 && !strings.Contains(r.err, "busy") {
			m.t.Errorf("umount: exit code %d: %s", r.code, r.err)
		}
		return r.code != 3
	})
}
