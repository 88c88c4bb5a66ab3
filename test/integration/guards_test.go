package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/zramfs/zramfs/internal/host"
	"github.com/zramfs/zramfs/internal/keeper"
)

// guardFiles are what the guards of swap change on the machine.
var guardFiles = []string{"/proc/sys/vm/watermark_boost_factor", "/proc/sys/vm/min_free_kbytes"}

const guardBook = keeper.RunDir + "/.state/guards.json"

// TestGuards makes two disks swap, with their guards. Both are seen by doctor;
// what was changed on the machine is put back with the last of them, and not
// before.
func TestGuards(t *testing.T) {
	need(t, "/dev/loop-control")
	if _, err := os.Stat(guardBook); err == nil {
		t.Skip("needs a machine on which no other zramfs is swap")
	}
	for _, file := range guardFiles {
		if err := host.Writable(file); err != nil {
			t.Skip("needs to set the machine up: ", err)
		}
	}
	// Values that swap must not find: the machine may have had better ones.
	for i, value := range []string{"15000", "8192"} {
		before := setting(t, guardFiles[i])
		t.Cleanup(func() { writeValue(t, guardFiles[i], before) })
		writeValue(t, guardFiles[i], value)
	}

	first, second := newGuarded(t), newGuarded(t)
	first.on()
	boosted, free := setting(t, guardFiles[0]), setting(t, guardFiles[1])
	if boosted != "0" || len(free) < 4 || free == "8192" && totalMemory(t) > 300<<20 {
		t.Errorf("watermark_boost_factor %s, min_free_kbytes %s", boosted, free)
	}
	second.on()

	for _, s := range []*guarded{first, second} {
		d := s.doctor()
		if !d.Swap || len(d.Guards) < 20 {
			t.Errorf("doctor: %+v", d)
		}
		for _, g := range d.Guards {
			t.Logf("%-8s %-15s %s", g.State, g.Name, g.Seen)
			if g.State == keeper.GuardIdle || g.Seen == "" || g.Why == "" || g.Todo == "" {
				t.Errorf("guard %s of a swap: %+v", g.Name, g)
			}
		}
	}

	// A guard that goes missing is told, with what to do; put back, all is well.
	sys := "/sys/block/" + filepath.Base(first.loop) + "/queue/stable_writes"
	writeValue(t, sys, "0")
	if failed := first.failed(); len(failed) != 1 || failed[0] != "stable-writes" {
		t.Errorf("failed: %v", failed)
	}
	writeValue(t, sys, "1")
	writeValue(t, guardFiles[0], "15000")
	if failed := second.failed(); len(failed) != 1 || failed[0] != "watermark-boost" {
		t.Errorf("failed: %v", failed)
	}
	writeValue(t, guardFiles[0], "0")
	if failed := first.failed(); len(failed) > 0 {
		t.Errorf("failed: %v", failed)
	}

	first.off()
	if got := setting(t, guardFiles[0]); got != "0" {
		t.Errorf("one of two swaps is left, but %s is %s", guardFiles[0], got)
	}
	if failed := second.failed(); len(failed) > 0 {
		t.Errorf("failed: %v", failed)
	}
	second.off()
	for i, want := range []string{"15000", "8192"} {
		if got := setting(t, guardFiles[i]); got != want {
			t.Errorf("%s is %s, was %s", guardFiles[i], got, want)
		}
	}
	if _, err := os.Stat(guardBook); !os.IsNotExist(err) {
		t.Errorf("%s is left: %v", guardBook, err)
	}
	workers, err := host.Kworkers()
	if err != nil {
		t.Fatal(err)
	}
	const fifo = 1
	for _, w := range workers {
		if w.Policy == fifo {
			t.Errorf("kworker left with SCHED_FIFO: %+v", w)
		}
	}
}

// TestGuardsRefuse: swap is not begun where a guard could be had and is not;
// with force it is, with a warning; and without names what is left out.
func TestGuardsRefuse(t *testing.T) {
	need(t, "/dev/loop-control")
	const timeout = "/proc/sys/fs/fuse/default_request_timeout"
	if err := host.Writable(timeout); err != nil {
		t.Skip("needs a kernel with FUSE timeouts: ", err)
	}
	before := setting(t, timeout)
	t.Cleanup(func() { writeValue(t, timeout, before) })
	s := newGuarded(t)
	s.loop = strings.TrimSpace(zramfs(t, "attach", s.point))
	loops := []string{s.loop}
	writeValue(t, timeout, "3600")

	_, err := keeper.ApplyGuards(s.point, loops, nil, false)
	if keeper.ExitCode(err) != keeper.CodeUnsafe || !strings.Contains(err.Error(), "fuse-timeouts") ||
		!strings.Contains(err.Error(), "--force") {
		t.Errorf("got %v", err)
	}
	warnings, err := keeper.ApplyGuards(s.point, loops, []string{"wbt", "warm", "kworkers", "stable-writes"}, true)
	if err != nil {
		t.Fatal(err)
	}
	said := strings.Join(warnings, "\n")
	for _, want := range []string{"fuse-timeouts: " + timeout + " 3600", "wbt: left out", "warm: left out"} {
		if !strings.Contains(said, want) {
			t.Errorf("warnings %q: want %q among them", said, want)
		}
	}
	queue := "/sys/block/" + filepath.Base(s.loop) + "/queue/"
	if got := setting(t, queue+"stable_writes"); got != "0" {
		t.Errorf("left out, but stable_writes is %s", got)
	}
	if got := setting(t, queue+"wbt_lat_usec"); got == "0" {
		t.Errorf("left out, but wbt_lat_usec is %s", got)
	}
	if err := keeper.UndoGuards(s.point); err != nil {
		t.Error(err)
	}
	if _, err := keeper.ApplyGuards(s.point, loops, []string{"readers"}, true); keeper.ExitCode(err) != keeper.CodeUsage {
		t.Errorf("a guard that cannot be left out: %v", err)
	}
	zramfs(t, "detach", s.point)
}

// guarded is a mount that becomes swap with its guards.
type guarded struct {
	*mnt
	loop string
}

func newGuarded(t *testing.T) *guarded {
	s := &guarded{mnt: mount(t, "--size", "64M")}
	t.Cleanup(func() {
		if s.loop != "" && swapUsed(t, s.loop) >= 0 {
			_ = host.SwapOff(s.loop)
		}
		_ = keeper.UndoGuards(s.point)
		_ = command(zramfsBinary, "detach", s.point)
	})
	return s
}

func (s *guarded) on() {
	s.t.Helper()
	s.set("zramfs/populate", "1")
	s.loop = strings.TrimSpace(zramfs(s.t, "attach", s.point))
	warnings, err := keeper.ApplyGuards(s.point, []string{s.loop}, nil, false)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Logf("warnings: %q", warnings)
	if err := host.MakeSwap(s.loop, "zramfs"); err != nil {
		s.t.Fatal(err)
	}
	if err := host.SwapOn(s.loop, 1); err != nil {
		s.t.Fatal(err)
	}
}

func (s *guarded) off() {
	s.t.Helper()
	if err := host.SwapOff(s.loop); err != nil {
		s.t.Fatal(err)
	}
	if err := keeper.UndoGuards(s.point); err != nil {
		s.t.Error(err)
	}
	zramfs(s.t, "detach", s.point)
}

// doctor is what it says; the exit code says the same.
func (s *guarded) doctor() keeper.Diagnosis {
	s.t.Helper()
	cmd := exec.Command(zramfsBinary, "doctor", s.point, "--json")
	out, err := cmd.Output()
	var d keeper.Diagnosis
	if jerr := json.Unmarshal(out, &d); jerr != nil {
		s.t.Fatalf("%v, %v\n%s", err, jerr, out)
	}
	want := keeper.CodeOK
	if slices.ContainsFunc(d.Guards, func(g keeper.GuardFinding) bool { return g.State == keeper.GuardFail }) {
		want = keeper.CodeUnsafe
	}
	if got := cmd.ProcessState.ExitCode(); got != int(want) {
		s.t.Errorf("exit code %d, want %d\n%s", got, want, out)
	}
	return d
}

// failed names the guards that fail twice in a row: a worker settles. The
// standby is left to the tests that kill workers.
func (s *guarded) failed() []string {
	s.t.Helper()
	count := map[string]int{}
	for range 2 {
		for _, g := range s.doctor().Guards {
			if g.State == keeper.GuardFail {
				count[g.Name]++
				s.t.Logf("%-8s %-15s %s", g.State, g.Name, g.Seen)
			}
		}
	}
	var names []string
	for name, n := range count {
		if n == 2 && name != "standby" {
			names = append(names, name)
		}
	}
	return names
}

func setting(t *testing.T, path string) string {
	t.Helper()
	value, err := host.ReadValue(path)
	if err != nil {
		t.Fatal(err)
	}
	return value
}

func writeValue(t *testing.T, path, value string) {
	t.Helper()
	if err := host.WriteValue(path, value); err != nil {
		t.Error(fmt.Errorf("set up: %w", err))
	}
}

func totalMemory(t *testing.T) int64 {
	t.Helper()
	total, err := host.TotalMemory()
	if err != nil {
		t.Fatal(err)
	}
	return total
}
