package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/zramfs/zramfs/internal/swapload"
)

// TestSwap lets a program use four times the memory that its cgroup gives it,
// with zramfs as the only place for the rest, and verifies every page. Then
// swapoff brings everything back, and it is done again.
func TestSwap(t *testing.T) {
	need(t, "/dev/loop-control", "mkswap")
	if g, err := swapload.NewMemcg(fmt.Sprintf("zramfs-probe-%d", os.Getpid()), 64<<20); err != nil {
		t.Skipf("needs a writable memory cgroup: %v", err)
	} else if err := g.Remove(); err != nil {
		t.Error(err)
	}
	for _, c := range []struct {
		name  string
		flags []string // of a mount; nil: swapon mounts
	}{
		{"direct", nil},
		{"write-behind", []string{"--write-behind", "256"}},
		{"write-behind-wait", []string{"--write-behind", "32", "--stable", "wait", "--algorithm", "zstd"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			name := fmt.Sprintf("itest-%d", os.Getpid())
			size := long("512M", "1G")
			for range 2 {
				swapOnce(t, name, size, c.flags)
			}
		})
	}
}

// swapOnce swaps on, runs the load, and swaps off.
func swapOnce(t *testing.T, name, size string, flags []string) {
	point := filepath.Join("/run/zramfs", name)
	t.Cleanup(func() {
		_ = command(zramfsBinary, "swapoff", "--name", name)
		nothing(t, point)
	})
	var m *mnt
	if flags != nil {
		if err := os.MkdirAll(point, 0o700); err != nil {
			t.Fatal(err)
		}
		zramfs(t, append([]string{"mount", point, "--size", size}, flags...)...)
	}
	m = &mnt{t, point}
	loop := strings.TrimSpace(zramfs(t, "swapon", "--name", name, "--size", size, "--priority", "32767"))

	var report swapload.Report
	out := run(t, swapperBinary, "-size", size, "-limit", long("128M", "256M"), "-json")
	if err := json.Unmarshal([]byte(out), &report); err != nil {
		t.Fatal(err)
	}
	if report.Wrong != 0 {
		t.Errorf("%d pages came back wrong: %v", report.Wrong, report.First)
	}
	if report.Swapped < report.Bytes/2 {
		t.Errorf("only %d of %d bytes were ever in swap", report.Swapped, report.Bytes)
	}
	if most := m.memory().max; most < report.Bytes/8 {
		t.Errorf("mem_used_max is %d: this is not where %d bytes were swapped to", most, report.Swapped)
	}
	if n := numbers(t, m.get("io_stat")); n[0] != 0 || n[1] != 0 {
		t.Errorf("io_stat counts failed reads or writes: %v", n)
	}
	if flags != nil {
		t.Logf("stable_stat: %s", strings.ReplaceAll(m.get("zramfs/stable_stat"), "\n", "; "))
	}
	m.check()
	zramfs(t, "swapoff", "--name", name)
	swaps, err := os.ReadFile("/proc/swaps")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(swaps), loop+" ") {
		t.Errorf("%s is still swap:\n%s", loop, swaps)
	}
	if _, err := os.Stat(point); !os.IsNotExist(err) {
		t.Errorf("%s is still there: %v", point, err)
	}
}
