package integration

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/zramfs/zramfs/internal/swapload"
)

// killsEnv says how many kills each load has to survive.
const killsEnv = "ZRAMFS_KILLS"

// kills is how many kills a load gets.
func kills(t *testing.T) int {
	t.Helper()
	text := os.Getenv(killsEnv)
	if text == "" {
		return long(50, 2000)
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 {
		t.Fatalf("%s=%q: expected a number of kills", killsEnv, text)
	}
	return n
}

// TestSurviveFile kills workers while fio writes, reads and verifies the file.
func TestSurviveFile(t *testing.T) {
	need(t, "fio")
	needResend(t)
	m := mount(t, "--size", "512M", "--write-behind", "64")
	load := startFio(t, m.disk(0))
	k := newKiller(m)
	k.run(kills(t), deaths())
	load.end()
	k.healthy()
}

// TestSurviveLoop does so through a loop device.
func TestSurviveLoop(t *testing.T) {
	need(t, "fio", "/dev/loop-control")
	needResend(t)
	m := mount(t, "--size", "512M")
	load := startFio(t, m.attach())
	k := newKiller(m)
	k.run(kills(t), deaths())
	load.end()
	m.detach()
	k.healthy()
}

// TestSurviveSwap does so while a program lives on four times the memory that
// it may have.
func TestSurviveSwap(t *testing.T) {
	need(t, "/dev/loop-control", "mkswap", "swapoff")
	needMemcg(t)
	needResend(t)
	s := newSwap(t, "512M", nil)
	s.start = []string{"swapon", "--name", s.name, "--size", s.size, "--segments", "8", "--priority", "32767"}
	device := s.on()
	load := startSwapper(t, s)
	k := newKiller(s.mnt)
	k.run(kills(t), deaths())
	load.end()
	k.healthy()
	s.off(device)
}

// needResend skips where a worker's death ends the mount.
func needResend(t *testing.T) {
	t.Helper()
	m := mount(t, "--size", "4M")
	if text := m.get("zramfs/daemon_stat"); !strings.Contains(text, "resend yes\n") {
		t.Skip("needs FUSE_NOTIFY_RESEND: Linux 6.9 or later")
	}
	m.end()
}

func needMemcg(t *testing.T) {
	t.Helper()
	probe, err := swapload.NewMemcg(fmt.Sprintf("zramfs-probe-%d", os.Getpid()), 64<<20)
	if err != nil {
		t.Skipf("needs a writable memory cgroup: %v", err)
	}
	if err := probe.Remove(); err != nil {
		t.Error(err)
	}
}
