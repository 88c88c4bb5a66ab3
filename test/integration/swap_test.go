package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/zramfs/zramfs/internal/host"
	"github.com/zramfs/zramfs/internal/swapload"
)

// TestSwap lets a program use four times the memory that its cgroup gives it,
// with zramfs as the only place for the rest, and verifies every page. Then
// swapoff, and the same again, this time with swapoff in the middle of it: the
// pages come back to a program that runs.
func TestSwap(t *testing.T) {
	need(t, "/dev/loop-control", "mkswap", "swapoff")
	probe, err := swapload.NewMemcg(fmt.Sprintf("zramfs-probe-%d", os.Getpid()), 64<<20)
	if err != nil {
		t.Skipf("needs a writable memory cgroup: %v", err)
	}
	if err := probe.Remove(); err != nil {
		t.Error(err)
	}
	groups := filepath.Dir(probe.Dir())
	type config struct {
		name  string
		flags []string // of a mount; nil: swapon mounts
	}
	configs := []config{{"direct", nil}, {"write-behind", []string{"--write-behind", "256"}}}
	configs = long(configs, append(configs, config{"wait", []string{"--write-behind", "32", "--stable", "wait", "--algorithm", "zstd"}}))
	for _, c := range configs {
		t.Run(c.name, func(t *testing.T) {
			s := newSwap(t, long("512M", "1G"), c.flags)
			loop := s.on()
			report := finished(t, s.load())
			if report.Swapped < report.Bytes/2 {
				t.Errorf("only %d of %d bytes were ever in swap", report.Swapped, report.Bytes)
			}
			s.healthy(report)
			s.off(loop)

			loop = s.on()
			load := s.load()
			await(t, "half of the program in swap", func() bool { return swapUsed(t, loop) > report.Bytes/2 })
			group := filepath.Join(groups, fmt.Sprintf("zramfs-swapper-%d", load.Process.Pid))
			for _, file := range []string{"memory.limit_in_bytes", "memory.max"} {
				if err := os.WriteFile(filepath.Join(group, file), []byte("8G"), 0); err == nil {
					break
				}
			}
			run(t, "swapoff", loop)
			finished(t, load)
			s.healthy(report)
			s.off(loop)
		})
	}
}

// swap is swap by a name of its own, and the load for it.
type swap struct {
	*mnt
	name, size string
	flags      []string
}

func newSwap(t *testing.T, size string, flags []string) *swap {
	name := fmt.Sprintf("itest-%d", os.Getpid())
	point := filepath.Join("/run/zramfs", name)
	t.Cleanup(func() {
		_ = command(zramfsBinary, "swapoff", "--name", name)
		nothing(t, point)
	})
	return &swap{&mnt{t, point}, name, size, flags}
}

func (s *swap) on() string {
	s.t.Helper()
	if s.flags != nil {
		if err := os.MkdirAll(s.point, 0o700); err != nil {
			s.t.Fatal(err)
		}
		zramfs(s.t, append([]string{"mount", s.point, "--size", s.size}, s.flags...)...)
	}
	return strings.TrimSpace(zramfs(s.t, "swapon", "--name", s.name, "--size", s.size, "--priority", "32767"))
}

// off ends it, and nothing is left.
func (s *swap) off(loop string) {
	s.t.Helper()
	zramfs(s.t, "swapoff", "--name", s.name)
	if used := swapUsed(s.t, loop); used >= 0 {
		s.t.Errorf("%s is still swap, with %d bytes", loop, used)
	}
	if _, err := os.Stat(s.point); !os.IsNotExist(err) {
		s.t.Errorf("%s is still there: %v", s.point, err)
	}
}

// healthy looks at the device after a load.
func (s *swap) healthy(report *swapload.Report) {
	s.t.Helper()
	if most := s.memory().max; most < report.Bytes/16 {
		s.t.Errorf("mem_used_max is %d: this is not where %d bytes were swapped to", most, report.Swapped)
	}
	if n := numbers(s.t, s.get("io_stat")); n[0] != 0 || n[1] != 0 {
		s.t.Errorf("io_stat counts failed reads or writes: %v", n)
	}
	s.check()
}

// load starts a program that has four times the memory it may have.
func (s *swap) load() *exec.Cmd {
	s.t.Helper()
	cmd := exec.Command(swapperBinary, "-json", "-size", s.size, "-limit", long("128M", "256M"), "-corpus", "../../testdata/pages.zst",
		"-touches", long("20000", "500000"))
	cmd.Stdout, cmd.Stderr = &bytes.Buffer{}, os.Stderr
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	return cmd
}

// finished waits for the load: every page came back as it was.
func finished(t *testing.T, load *exec.Cmd) *swapload.Report {
	t.Helper()
	var report swapload.Report
	if err := load.Wait(); err != nil {
		t.Fatalf("swapper: %v", err)
	}
	if err := json.Unmarshal(load.Stdout.(*bytes.Buffer).Bytes(), &report); err != nil {
		t.Fatal(err)
	}
	for _, p := range report.Phases {
		t.Logf("%-7s %5.1f s, %4.0f MiB/s, %d MiB in swap", p.Name, p.Seconds, p.MiBs, p.Swapped>>20)
	}
	if report.Wrong != 0 || report.Bytes == 0 {
		t.Errorf("%d pages of %d bytes came back wrong: %v", report.Wrong, report.Bytes, report.First)
	}
	return &report
}

// swapUsed is how many bytes are swapped out to a device; -1 if it is no swap.
func swapUsed(t *testing.T, device string) int64 {
	t.Helper()
	swaps, err := host.Swaps()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range swaps {
		if filepath.Base(s.Path) == filepath.Base(device) {
			return s.Used
		}
	}
	return -1
}
