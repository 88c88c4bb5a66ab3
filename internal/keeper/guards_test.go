package keeper

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zramfs/zramfs/internal/host"
)

// knob is a file that holds a setting. As in the kernel's, a write does not
// shorten it: values are of one length.
func knob(t *testing.T, name, value string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	turn(t, path, value)
	return path
}

func turn(t *testing.T, path, value string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(value+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}

func reads(t *testing.T, path, want string) {
	t.Helper()
	if got, err := host.ReadValue(path); err != nil || got != want {
		t.Errorf("%s is %q, %v; want %q", filepath.Base(path), got, err, want)
	}
}

func openState(t *testing.T, dir string) *guardState {
	t.Helper()
	s, err := openGuardState(dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// A setting is remembered from before the first change to after the last.
func TestGuardStatePutsBack(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	boost, free, same := knob(t, "boost", "1"), knob(t, "free", "8192"), knob(t, "same", "0")
	s := openState(t, dir)
	for path, value := range map[string]string{boost: "0", free: "9000", same: "0"} {
		if err := s.set(path, value); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.save(); err != nil {
		t.Fatal(err)
	}
	s.close()
	reads(t, boost, "0")
	reads(t, free, "9000")
	info, err := os.Stat(filepath.Join(dir, "guards.json"))
	if err != nil || info.Mode() != 0o600 {
		t.Fatalf("%v, %v", info, err)
	}

	// Another command, another value: what it was at first is what counts.
	s = openState(t, dir)
	if err := s.set(free, "9999"); err != nil {
		t.Fatal(err)
	}
	s.close()
	s = openState(t, dir)
	if len(s.Changed) != 2 || s.Changed[free] != (change{"8192", "9999"}) {
		t.Errorf("remembers %v", s.Changed)
	}
	// Somebody else had a later word on one of them.
	turn(t, boost, "7")
	if err := s.drop("/no/such/mount"); err != nil {
		t.Fatal(err)
	}
	s.close()
	reads(t, boost, "7")
	reads(t, free, "8192")
	if _, err := os.Stat(filepath.Join(dir, "guards.json")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("nothing to remember, but: %v", err)
	}
}

// The last of several swaps puts back; one whose mount is gone does not count.
func TestGuardStateCounts(t *testing.T) {
	mounts, err := host.Mounts()
	if err != nil {
		t.Fatal(err)
	}
	// Any zramfs that happens to be mounted would do; without one, drop sees
	// only dead swaps, which is the other half of the test.
	i := slices.IndexFunc(mounts, func(m host.Mount) bool { return m.Type == host.FSType })
	dir, file := t.TempDir(), knob(t, "boost", "1")
	s := openState(t, dir)
	defer s.close()
	if err := s.set(file, "0"); err != nil {
		t.Fatal(err)
	}
	s.Swaps["/gone"] = guardedSwap{Dev: "0:1"}
	s.Swaps["/mine"] = guardedSwap{Dev: "0:2"}
	if i >= 0 {
		m := mounts[i]
		s.Swaps[m.Point] = guardedSwap{Dev: m.Dev}
		if err := s.drop("/mine"); err != nil {
			t.Fatal(err)
		}
		reads(t, file, "0")
		if len(s.Swaps) != 1 {
			t.Errorf("counts %v", s.Swaps)
		}
		s.Swaps[m.Point] = guardedSwap{Dev: m.Dev + "0"} // another one than is mounted there
	}
	if err := s.drop("/mine"); err != nil {
		t.Fatal(err)
	}
	reads(t, file, "1")
	if len(s.Swaps)+len(s.Changed) != 0 {
		t.Errorf("left: %+v", s)
	}
}

// What was changed of a loop device's queue goes back with its own swap, though
// others are still there; but for what somebody else has changed since.
func TestGuardStateQueues(t *testing.T) {
	requests, size, boost := knob(t, "nr_requests", "128"), knob(t, "max_sectors_kb", "1280"), knob(t, "boost", "1")
	dir := t.TempDir()
	s := openState(t, dir)
	s.Swaps["/mine"] = guardedSwap{Dev: "0:2"}
	for _, err := range []error{
		s.set(boost, "0"),
		s.setQueue("/mine", requests, "016"), s.setQueue("/mine", size, "0064"),
		s.setQueue("/mine", requests, "032"), // what it was at first is what counts
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	s.close()
	reads(t, requests, "032")
	reads(t, size, "0064")
	turn(t, size, "2560")
	s = openState(t, dir)
	defer s.close()
	s.Swaps["/other"] = guardedSwap{} // as there as a mount is whose device is none
	if err := s.drop("/mine"); err != nil {
		t.Fatal(err)
	}
	reads(t, requests, "128")
	reads(t, size, "2560")
	if _, there := s.Swaps["/mine"]; there {
		t.Error("the swap is remembered")
	}
}

func TestGuardStateErrors(t *testing.T) {
	dir := t.TempDir()
	s := openState(t, dir)
	// A value that cannot be written is not remembered as if it had been.
	path := filepath.Join("/proc/self", "stat")
	if err := s.set(path, "1"); err == nil || len(s.Changed) != 0 {
		t.Errorf("%v, remembers %v", err, s.Changed)
	}
	if err := s.set(filepath.Join(dir, "none"), "1"); !gone(err) {
		t.Error(err)
	}
	// What cannot be put back stays remembered; what is gone does not.
	s.Changed[path] = change{"1", mustRead(t, path)}
	s.Changed[filepath.Join(dir, "none")] = change{"1", "2"}
	err := s.drop("/mine")
	if name := "put back"; len(s.Changed) > 1 || err != nil && !strings.Contains(err.Error(), name) {
		t.Errorf("%v, remembers %v", err, s.Changed)
	}
	s.close()
	turn(t, filepath.Join(dir, "guards.json"), "{")
	if _, err := openGuardState(dir); err == nil || !strings.Contains(err.Error(), "then remove it") {
		t.Errorf("torn: %v", err)
	}
}

func mustRead(t *testing.T, path string) string {
	t.Helper()
	value, err := host.ReadValue(path)
	if err != nil {
		t.Fatal(err)
	}
	return value
}

// One command at a time, across processes.
func TestGuardStateLocks(t *testing.T) {
	dir := t.TempDir()
	s := openState(t, dir)
	locked := func() bool {
		return exec.Command("flock", "--nonblock", "--conflict-exit-code", "9", dir, "true").Run() != nil
	}
	if _, err := exec.LookPath("flock"); err != nil {
		t.Skip("needs flock(1)")
	}
	if !locked() {
		t.Error("not locked while open")
	}
	s.close()
	if locked() {
		t.Error("locked after close")
	}
}

func TestGuardTable(t *testing.T) {
	seen := map[string]bool{}
	for _, g := range guards() {
		if g.name == "" || g.why == "" || g.todo == "" || g.check == nil || seen[g.name] {
			t.Errorf("guard %+v", g)
		}
		if g.leave != nil && !g.optional || g.must && g.apply == nil && g.todo == "" {
			t.Errorf("guard %s", g.name)
		}
		seen[g.name] = true
		c := Config{Without: []string{g.name}}
		if err := checkWithout(c.Without); (err == nil) != g.optional || err != nil && ExitCode(err) != CodeUsage {
			t.Errorf("without %s: %v", g.name, err)
		}
		if !c.leavesOut(g.name) || (&Config{}).leavesOut(g.name) {
			t.Errorf("leavesOut(%s)", g.name)
		}
	}
	if err := checkWithout([]string{"wbt", "bogus"}); err == nil || !strings.Contains(err.Error(), `"bogus"`) {
		t.Error(err)
	}
}

// From 3 to 4 % of memory, and no more than 64 MiB.
func TestMinFree(t *testing.T) {
	for total, want := range map[int64]int64{
		128 << 20: 4587, 256 << 20: 9175, 512 << 20: 18350, 4 << 30: 65536, 1 << 40: 65536,
	} {
		if got := wantMinFree(total); got != want {
			t.Errorf("%d MiB: %d KiB, want %d", total>>20, got, want)
		}
	}
}

func TestDiagnosis(t *testing.T) {
	d := Diagnosis{Mountpoint: "/mnt/z", Guards: []GuardFinding{
		{"locked", GuardPass, "all", "w1", "d1"}, {"wbt", GuardWarn, "none", "w2", "d2"},
		{"min-free", GuardIdle, "-", "w3", "d3"}, {"heap", GuardUnknown, "?", "w4", "d4"},
	}}
	if err := d.Failed(); err != nil {
		t.Errorf("nothing failed: %v", err)
	}
	d.Guards = append(d.Guards, GuardFinding{"discard", GuardFail, "off", "w5", "d5"})
	if err := d.Failed(); ExitCode(err) != CodeUnsafe || !strings.HasSuffix(err.Error(), "1 of 5 guards failed: discard") {
		t.Errorf("got %v", err)
	}
	text := d.Text()
	for _, want := range []string{"pass      locked           all\n", "why: w2\n", "do: d5\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
	if strings.Contains(text, "w1") || strings.Contains(text, "w3") {
		t.Errorf("more than is wrong:\n%s", text)
	}
}

// The worst of several processes is what counts, and each is told.
func TestEach(t *testing.T) {
	in := &inspection{procs: []member{{memberKeeper, 1}, {memberWorker, 2}, {memberStandby, 3}}}
	states := []GuardState{GuardPass, GuardWarn, GuardUnknown}
	f := in.each(func(p member) finding { return finding{states[p.pid-1], "s"} })
	if f.state != GuardWarn || f.seen != "keeper s; worker s; standby s" {
		t.Errorf("got %+v", f)
	}
	if f := in.eachLoop(nil); f.state != GuardIdle {
		t.Errorf("no loop device: %+v", f)
	}
	in.loops = []string{"/dev/loop3", "/dev/loop4", "/dev/loop5"}
	f = in.eachLoop(func(path string) finding {
		if path == "/dev/loop4" {
			return fail("0, 1 expected")
		}
		return pass("1")
	})
	if f.state != GuardFail || f.seen != "/dev/loop3 and 1 more 1; /dev/loop4 0, 1 expected" {
		t.Errorf("three loop devices: %+v", f)
	}
}

// The checks of processes, on this one.
func TestProcessChecks(t *testing.T) {
	in := &inspection{procs: []member{{memberKeeper, os.Getpid()}}}
	var err error
	threads, err := host.Threads(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	in.before = sample{threads: map[int][]host.Thread{os.Getpid(): threads}}
	in.after = sample{threads: map[int][]host.Thread{os.Getpid(): slices.Clone(threads)}, at: 1e9}

	if f := checkLocked(in); f.state == GuardPass || !strings.Contains(f.seen, "not locked") {
		t.Errorf("locked: %+v", f) // tests are not
	}
	if f := checkOOM(in); f.state == GuardPass || f.state == GuardUnknown {
		t.Errorf("oom score: %+v", f)
	}
	if f := checkFlusher(in); f.state == GuardPass || !strings.Contains(f.seen, " of ") {
		t.Errorf("flusher: %+v", f)
	}
	if f := checkSteady(in); f.state != GuardPass || !strings.HasSuffix(f.seen, "0 major and 0 minor faults in 1.0 s") {
		t.Errorf("steady: %+v", f)
	}
	after := in.after.threads[os.Getpid()]
	after[0].MajorFaults++
	if f := checkSteady(in); f.state != GuardFail || !strings.Contains(f.seen, "1 major") {
		t.Errorf("a major fault: %+v", f)
	}
	after[0].MajorFaults--
	after[0].MinorFaults += 3
	if f := checkSteady(in); f.state != GuardPass || !strings.Contains(f.seen, "3 minor") {
		t.Errorf("minor faults: %+v", f)
	}
	after[0].Policy = unix.SCHED_BATCH
	if f := checkSteady(in); f.state != GuardFail {
		t.Errorf("a reader's minor faults: %+v", f)
	}
	in.after.threads[os.Getpid()] = append(threads, host.Thread{ID: 1 << 30})
	if f := checkSteady(in); f.state != GuardFail || !strings.Contains(f.seen, "1 new") {
		t.Errorf("a new thread: %+v", f)
	}
	delete(in.after.threads, os.Getpid())
	if f := checkSteady(in); f.state != GuardUnknown {
		t.Errorf("a process that ended: %+v", f)
	}
}

func TestHeapCheck(t *testing.T) {
	facts := func(cycles, allocated, percent int64) map[string]int64 {
		return map[string]int64{"worker_gc_cycles": cycles, "worker_allocated": allocated, "worker_gc_percent": percent}
	}
	for _, c := range []struct {
		name string
		now  map[string]int64
		want GuardState
	}{
		{"steady", facts(3, 1000+9000, -1), GuardPass},
		{"a cycle", facts(4, 1000, -1), GuardFail},
		{"allocating", facts(3, 1000+1<<20, -1), GuardFail},
		{"collector on", facts(3, 1000, 100), GuardFail},
	} {
		in := &inspection{before: sample{memory: facts(3, 1000, -1)}, after: sample{memory: c.now}}
		if f := checkHeap(in); f.state != c.want {
			t.Errorf("%s: %+v", c.name, f)
		}
	}
}
