package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
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
	groups := cgroups(t)
	type config struct {
		name  string
		flags []string // of a mount; nil: swapon mounts
	}
	configs := []config{{"direct", nil}, {"write-behind", []string{"--write-behind", "256"}}}
	configs = long(configs, append(configs, config{"wait", []string{"--write-behind", "32", "--stable", "wait", "--algorithm", "zstd"}}))
	for _, c := range configs {
		t.Run(c.name, func(t *testing.T) {
			s := newSwap(t, long("256M", "1G"), c.flags)
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
			unlimit(groups, load)
			for _, device := range strings.Fields(loop) {
				if err := host.SwapOffContext(t.Context(), device); err != nil { // see there why not swapoff(8)
					t.Fatal(err)
				}
			}
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
	start      []string // arguments of swapon; nil: by size
}

func newSwap(t *testing.T, size string, flags []string) *swap {
	name := fmt.Sprintf("itest-%d", os.Getpid())
	point := filepath.Join("/run/zramfs", name)
	t.Cleanup(func() {
		_ = command(zramfsBinary, "swapoff", "--name", name)
		nothing(t, point)
	})
	return &swap{mnt: &mnt{t: t, point: point}, name: name, size: size, flags: flags}
}

// on gives the devices, one a line.
func (s *swap) on() string {
	s.t.Helper()
	if s.flags != nil {
		if err := os.MkdirAll(s.point, 0o700); err != nil {
			s.t.Fatal(err)
		}
		zramfs(s.t, append([]string{"mount", s.point, "--size", s.size}, s.flags...)...)
	}
	args := s.start
	if args == nil {
		args = []string{"swapon", "--name", s.name, "--size", s.size, "--priority", "32767"}
	}
	return strings.TrimSpace(zramfs(s.t, args...))
}

// off ends it, and nothing is left.
func (s *swap) off(loop string) {
	s.t.Helper()
	if !s.told.over {
		s.crashes()
	}
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
	return s.loadWith(long("64M", "256M"), long("10000", "500000"))
}

// loadWith is load with that much memory, and as many touches at random.
func (s *swap) loadWith(limit, touches string) *exec.Cmd {
	s.t.Helper()
	cmd := exec.Command(swapperBinary, "-json", "-size", s.size, "-limit", limit, "-corpus", "../../testdata/pages.zst",
		"-touches", touches)
	cmd.Stdout, cmd.Stderr = &bytes.Buffer{}, os.Stderr
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	return cmd
}

// cgroups is where memory cgroups lie; a machine without is skipped.
func cgroups(t *testing.T) string {
	t.Helper()
	probe, err := swapload.NewMemcg(fmt.Sprintf("zramfs-probe-%d", os.Getpid()), 64<<20)
	if err != nil {
		t.Skipf("needs a writable memory cgroup: %v", err)
	}
	if err := probe.Remove(); err != nil {
		t.Error(err)
	}
	return filepath.Dir(probe.Dir())
}

// unlimit gives a load all the memory it wants. groups is where cgroups lie.
func unlimit(groups string, load *exec.Cmd) {
	group := filepath.Join(groups, fmt.Sprintf("zramfs-swapper-%d", load.Process.Pid))
	for _, file := range []string{"memory.limit_in_bytes", "memory.max"} {
		if err := os.WriteFile(filepath.Join(group, file), []byte("8G"), 0); err == nil {
			break
		}
	}
}

// finished waits for the load: every page came back as it was.
func finished(t *testing.T, load *exec.Cmd) *swapload.Report {
	t.Helper()
	if err := load.Wait(); err != nil {
		t.Fatalf("swapper: %v", err)
	}
	return verified(t, load)
}

// verified reads the report of a load that has ended well.
func verified(t *testing.T, load *exec.Cmd) *swapload.Report {
	t.Helper()
	var report swapload.Report
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

// swapUsed is how many bytes are swapped out to devices, named one a line; -1
// if none of them is swap.
func swapUsed(t *testing.T, devices string) int64 {
	t.Helper()
	swaps, err := host.Swaps()
	if err != nil {
		t.Fatal(err)
	}
	used := int64(-1)
	for _, s := range swaps {
		if slices.ContainsFunc(strings.Fields(devices), func(d string) bool { return filepath.Base(d) == filepath.Base(s.Path) }) {
			used = max(used, 0) + s.Used
		}
	}
	return used
}
