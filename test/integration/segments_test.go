package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zramfs/zramfs/internal/host"
)

// newSegments is swap whose store is small, so that it cannot all be enabled
// at once.
func newSegments(t *testing.T, limit string) *swap {
	t.Helper()
	need(t, "/dev/loop-control", "swapoff")
	cgroups(t)
	s := newSwap(t, "", nil)
	s.start = []string{"swapon", "--name", s.name, "--mem-limit", limit, "--priority", "32767"}
	return s
}

func (s *swap) swapStat(name string) int64 { s.t.Helper(); return s.stat("zramfs/swap_stat", name) }

// eater starts a program that wants more than its cgroup gives it.
func (s *swap) eater(size string, touches string) *exec.Cmd {
	s.t.Helper()
	s.size = size
	return s.loadWith("64M", touches)
}

// enabledBelow counts the segments that are swap.
func enabledBelow(t *testing.T, devices string) (n int64) {
	t.Helper()
	swaps, err := host.Swaps()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range swaps {
		if slices.Contains(strings.Fields(devices), s.Path) {
			n++
		}
	}
	return n
}

// TestSegmentsFollowTheData: only as many segments as any data fit into are
// enabled at the start; the others follow while data turn out to compress; and
// when a program wants more than there can be room for, the slots run out and
// the kernel ends it, before any write finds the store full.
func TestSegmentsFollowTheData(t *testing.T) {
	s := newSegments(t, "48M")
	devices := s.on()
	total := s.swapStat("segments_total")
	if n := int64(len(strings.Fields(devices))); n != total || total < 8 {
		t.Fatalf("%d devices, %d segments", n, total)
	}
	first, size := s.swapStat("segments_enabled"), s.swapStat("segment_size")
	if first == 0 || first*size > 48<<20 || first != enabledBelow(t, devices) {
		t.Errorf("%d segments of %d bytes are enabled for a store of 48 MiB; the kernel knows %d", first, size, enabledBelow(t, devices))
	}
	if again := s.on(); again != devices {
		t.Errorf("the second swapon says %q, the first %q", again, devices)
	}

	load := s.eater("320M", "0") // more than can fit, however the data compress
	err := load.Wait()
	if load.ProcessState.ExitCode() != 3 { // killed, as its cgroup was out of memory and swap
		t.Errorf("the program ended with %v", err)
	}
	if n := s.swapStat("segments_enabled"); n <= first || n == total {
		t.Errorf("%d of %d segments are enabled, %d at the start", n, total, first)
	}
	if n := numbers(t, s.get("io_stat")); n[0] != 0 || n[1] != 0 {
		t.Errorf("io_stat counts failed reads or writes: %v", n)
	}
	t.Logf("%d of %d segments of %d MiB, %.2f of the store", s.swapStat("segments_enabled"), total, size>>20, float64(s.memory().max)/(48<<20))
	if m := s.memory(); m.max > 48<<20 || m.max < 36<<20 {
		t.Errorf("mem_used_max is %d of a store of 48 MiB", m.max)
	}
	if n := s.swapStat("watchdog_fired"); n != 0 {
		t.Errorf("the watchdog fired %d times on a machine with memory", n)
	}
	s.check()
	s.off(devices)
}

// TestSegmentTurnedOff: who turns a segment off by hand gets no other in its
// place, until swapon is asked again.
func TestSegmentTurnedOff(t *testing.T) {
	s := newSegments(t, "48M")
	devices := s.on()
	before := enabledBelow(t, devices)
	run(t, "swapoff", strings.Fields(devices)[0])
	await(t, "the keeper to see it", func() bool { return s.swapStat("halted") == 1 })
	want := func() { // more than what is enabled
		load := s.eater("160M", "0")
		if _ = load.Wait(); load.ProcessState.ExitCode() != 0 && load.ProcessState.ExitCode() != 3 { // 3: killed for want of slots
			t.Errorf("the program ended with %v", load.ProcessState)
		}
	}
	want()
	if n := enabledBelow(t, devices); n >= before {
		t.Errorf("%d segments are enabled after one of %d was turned off", n, before)
	}
	s.on()
	want()
	if n := enabledBelow(t, devices); n <= before || swapUsed(t, strings.Fields(devices)[0]) < 0 {
		t.Errorf("%d segments are enabled after another swapon, %d before; the first is not", n, before)
	}
	s.off(devices)
}

// fits runs a program of that size to its end. Where pages come faster than
// the keeper, on a busy machine, is told to look, slots run out and the kernel
// ends the program; what was enabled for it stays for the next.
func (s *swap) fits(size string) {
	s.t.Helper()
	for try := 0; ; try++ {
		load := s.eater(size, "5000")
		if err := load.Wait(); err == nil {
			verified(s.t, load)
			return
		} else if load.ProcessState.ExitCode() != 3 || try == 4 {
			s.t.Fatalf("swapper, %d times: %v", try+1, err)
		}
	}
}

// TestKeeperOfSegmentsKilled: the keeper that comes after one that died goes
// on with the segments, and a worker that comes after another goes on telling
// what room there is.
func TestKeeperOfSegmentsKilled(t *testing.T) {
	needResend(t)
	s := newSegments(t, "48M")
	devices := s.on()
	first := enabledBelow(t, devices)
	s.told.kills = true
	keeper := s.stat("zramfs/daemon_stat", "keeper_pid")
	if err := unix.Kill(int(keeper), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	await(t, "another keeper", func() bool {
		r := command(zramfsBinary, "get", s.point, "daemon_stat")
		return r.code == 0 && !strings.Contains(r.out, fmt.Sprintf("keeper_pid %d\n", keeper)) && strings.Contains(r.out, "keeper_pid ")
	})
	standby(s.mnt)
	s.fits("150M")
	if n := enabledBelow(t, devices); n <= first {
		t.Errorf("after another keeper came %d segments are enabled, %d before", n, first)
	}
	worker := s.stat("zramfs/daemon_stat", "worker_pid")
	if err := unix.Kill(int(worker), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	await(t, "another worker", func() bool { return s.stat("zramfs/daemon_stat", "worker_pid") != worker })
	s.fits("150M")
	s.check()
	s.off(devices)
}

// TestSegmentsUpgraded: a keeper that becomes another program goes on with the
// segments, too.
func TestSegmentsUpgraded(t *testing.T) {
	needResend(t)
	s := newSegments(t, "48M")
	devices := s.on()
	first, armed := enabledBelow(t, devices), s.swapStat("watchdog_armed")
	for range 2 {
		if words := zramfs(t, "upgrade", s.point, "--json"); strings.Contains(words, "keeper_kept") {
			t.Errorf("the keeper goes on with the program before: %s", words)
		}
	}
	s.fits("150M")
	if n := enabledBelow(t, devices); n <= first {
		t.Errorf("after an upgrade %d segments are enabled, %d before", n, first)
	}
	if n := s.swapStat("watchdog_armed"); n != armed {
		t.Errorf("watchdog_armed is %d after an upgrade, %d before", n, armed)
	}
	s.check()
	s.off(devices)
}

// TestSwapOffInterrupted: what is not back in memory stays swap, and both
// swapon and swapoff go on from there.
func TestSwapOffInterrupted(t *testing.T) {
	s := newSegments(t, "96M")
	devices := s.on()
	load := s.eater("200M", "100000")
	await(t, "much of the program in swap", func() bool { return swapUsed(t, devices) > 120<<20 })
	unlimit(cgroups(t), load)
	off := exec.Command(zramfsBinary, "swapoff", "--name", s.name)
	var words strings.Builder
	off.Stderr = &words
	if err := off.Start(); err != nil {
		t.Fatal(err)
	}
	before := swapUsed(t, devices)
	await(t, "some pages in memory", func() bool { return swapUsed(t, devices) < before-4<<20 })
	_ = off.Process.Signal(unix.SIGINT) // it may have finished
	if _ = off.Wait(); off.ProcessState.ExitCode() == 0 {
		t.Skip("needs a machine whose swapoff takes longer than a signal")
	}
	if off.ProcessState.ExitCode() != 3 || !strings.Contains(words.String(), "another swapoff goes on from there") {
		t.Errorf("swapoff ended with %v: %s", off.ProcessState, &words)
	}
	if !s.serving() {
		t.Fatal("the mount is gone after a swapoff that was interrupted")
	}
	if again := s.on(); again != devices {
		t.Errorf("swapon says %q after a swapoff that was interrupted, and %q before", again, devices)
	}
	finished(t, load)
	s.check()
	s.off(devices)
}

// TestSwapOffWhileEnabling: a segment that is enabled when swapoff has begun,
// and before the keeper has stopped enabling, is disabled, too.
func TestSwapOffWhileEnabling(t *testing.T) {
	s := newSegments(t, "48M")
	devices := s.on()
	var next string
	for _, d := range strings.Fields(devices) {
		if enabledBelow(t, d) == 0 {
			next = d
			break
		}
	}
	if next == "" {
		t.Fatal("all segments are enabled at the start")
	}
	keeper := int(s.stat("zramfs/daemon_stat", "keeper_pid"))
	if err := unix.Kill(keeper, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Kill(keeper, unix.SIGCONT) }) // a test that failed below
	off := exec.Command(zramfsBinary, "swapoff", "--name", s.name)
	var words strings.Builder
	off.Stderr = &words
	if err := off.Start(); err != nil {
		t.Fatal(err)
	}
	await(t, "a question to the keeper", func() bool {
		files, _ := filepath.Glob(proc(off.Process.Pid, "fd/*"))
		return slices.ContainsFunc(files, func(f string) bool {
			what, err := os.Readlink(f)
			return err == nil && strings.HasPrefix(what, "socket:")
		})
	})
	if err := host.SwapOn(next, 32767); err != nil { // as the keeper's thread might have
		t.Fatal(err)
	}
	if err := unix.Kill(keeper, unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if err := off.Wait(); err != nil {
		t.Errorf("swapoff: %v: %s", err, &words)
	}
	if n := enabledBelow(t, devices); n != 0 {
		t.Errorf("%d segments are enabled after swapoff", n)
	}
}
