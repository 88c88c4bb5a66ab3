package keeper

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zramfs/zramfs/internal/host"
)

func TestStoreFor(t *testing.T) {
	const mib = 1 << 20
	for _, c := range []struct{ available, anonymous, least, most int64 }{
		{60 * mib, 0, 26 * mib, 30 * mib},              // a guest of 128 MiB
		{38 * mib, 0, 7 * mib, 7 * mib},                // less: half of what is left is store
		{120 * mib, 0, 82 * mib, 84 * mib},             // of 192 MiB
		{186 * mib, 0, 130 * mib, 160 * mib},           // of 256 MiB
		{100 * mib, 86 * mib, 130 * mib, 160 * mib},    // the same, in use
		{16 << 30, 0, 8 << 30, 9 << 30},                // a desktop
		{10 << 30, 6 << 30, 8 << 30, 9 << 30},          // in use
		{1 << 40, 0, 512<<30 - mib, 512<<30 + 512*mib}, // a server
		{mib, 0, 0, 0},
	} {
		got := storeFor(host.MachineMemory{Available: c.available, Anonymous: c.anonymous})
		if got < c.least || got > c.most || got%pageSize != 0 {
			t.Errorf("%d MiB free, %d MiB of programs: a store of %d MiB", c.available>>20, c.anonymous>>20, got>>20)
		}
	}
	for size, want := range map[int64]int{4096: 1, 4 << 20: 1, 32 << 20: 8, 64 << 20: 16, 1 << 30: 16, MaxSize: 16} {
		if got := segmentsFor(size); got != want {
			t.Errorf("%d bytes in %d segments, want %d", size, got, want)
		}
	}
}

// Where any data fit, one loop device is enough; who names a number gets it.
func TestSegmentsOfSwap(t *testing.T) {
	const mib = 1 << 20
	for _, c := range []struct {
		size, limit int64
		asked, want int
	}{
		{144 * mib, 48 * mib, 0, 16},
		{48 * mib, 48 * mib, 0, 12}, // not with what is held back
		{42 * mib, 48 * mib, 0, 1},
		{1 << 30, 8 << 30, 0, 1},
		{1 << 30, 8 << 30, 4, 4},
		{144 * mib, 48 * mib, 2, 2},
	} {
		config := SwapConfig{Size: c.size, MemLimit: c.limit, Segments: c.asked}
		if got := config.segments(); got != c.want {
			t.Errorf("%d MiB in a store of %d MiB, %d asked for: %d segments, want %d", c.size/mib, c.limit/mib, c.asked, got, c.want)
		}
	}
}

func TestMissingMemory(t *testing.T) {
	for _, c := range []struct {
		used, stored, available, elsewhere int64
		enough                             bool
	}{
		{0, 0, 0, 0, true},
		{100, 40, 200, 0, true},
		{100, 40, 50, 0, false},
		{100, 40, 80, 0, true}, // the store gives back what it takes
		{100, 40, 50, 60, true},
		{100, 100, 0, 0, false}, // but not before there was room for its pages
	} {
		n := missingMemory(c.used<<20, c.stored<<20, c.available<<20, c.elsewhere<<20)
		if (n <= 0) != c.enough {
			t.Errorf("%d MiB, stored in %d, with %d available and %d elsewhere: %d bytes missing",
				c.used, c.stored, c.available, c.elsewhere, n)
		}
	}
}

func TestOnDisk(t *testing.T) {
	for backing, want := range map[string]bool{
		"/m/dev/zram0": true, "/m/dev/zram0.0": true, "/m/dev/zram0.15": true,
		"/m/dev/zram1": false, "/m/dev/zram01": false, "/m/dev/zram0.": false, "/m/dev/zram0.x": false, "/dev/zram0": false,
	} {
		if got := onDisk(backing, "/m/dev/zram0"); got != want {
			t.Errorf("%s: %v", backing, got)
		}
	}
}

// guarded is a watchdog over a page, with a file in the place of the kernel's.
func guarded(t *testing.T, scarce bool) (page *roomPage, look func(), trigger string) {
	t.Helper()
	page = &roomPage{}
	trigger = filepath.Join(t.TempDir(), "sysrq")
	f, err := os.Create(trigger)
	if err != nil {
		t.Fatal(err)
	}
	g := guardian{page: page, crash: &crashRecord{}, trigger: f, scarce: func(int64, int64) bool { return scarce }}
	if g.meter, err = host.OpenMeter(); err != nil {
		t.Skipf("needs /proc/swaps and /proc/meminfo: %v", err)
	}
	t.Cleanup(func() {
		f.Close()
		g.meter.Close()
	})
	return page, func() {
		page.beat.Add(1)
		g.look()
	}, trigger
}

// TestGuardian: with writes that wait, free slots, and no memory, it asks for
// the OOM killer; with memory it does not, however long they wait.
func TestGuardian(t *testing.T) {
	for _, scarce := range []bool{true, false} {
		page, look, trigger := guarded(t, scarce)
		page.free.Store(100)
		page.waiting.Store(3)
		for start := time.Now(); time.Since(start) < fullTime*5/4; time.Sleep(10 * time.Millisecond) {
			look()
		}
		text, err := os.ReadFile(trigger)
		if err != nil {
			t.Fatal(err)
		}
		want := ""
		if scarce {
			want = string(rune(sysrqKill))
		}
		if string(text) != want || (page.fired.Load() != 0) != scarce {
			t.Errorf("scarce %v: %q was written, fired %d times", scarce, text, page.fired.Load())
		}
	}
}

// TestGuardianSeesItRun: a worker that has told nothing for long and runs is a
// reason; the same silence of one that is no more, or is stopped, is none.
func TestGuardianSeesItRun(t *testing.T) {
	stopped := exec.Command("sleep", "60")
	if err := stopped.Start(); err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() {
		_ = stopped.Process.Kill() // ours, and not reaped yet
		_ = stopped.Wait()
	})
	if err := stopped.Process.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for pid, want := range map[int]int64{os.Getpid(): 1, stopped.Process.Pid: 0, 0: 0} {
		page := &roomPage{}
		g := guardian{page: page, crash: &crashRecord{}, trigger: scratchFile(t, ""), scarce: func(int64, int64) bool { return true }}
		g.inFlight = []*os.File{scratchFile(t, "       3        9\n")}
		var err error
		if g.meter, err = host.OpenMeter(); err != nil {
			t.Skipf("needs /proc/swaps and /proc/meminfo: %v", err)
		}
		t.Cleanup(func() { g.meter.Close() })
		g.crash.worker.Store(int64(pid))
		page.free.Store(100)
		page.beat.Store(1)
		for range 3 {
			g.look() // the last word, and the silence
		}
		// As if that had been long ago; only the kernel knows who ran since.
		for _, since := range []*int64{&g.dog.heard, &g.dog.mute, &g.dog.ran} {
			*since -= 2 * aloneTime
		}
		g.look()
		if got := page.fired.Load(); got != want {
			t.Errorf("process %d: fired %d times, want %d", pid, got, want)
		}
	}
}

// scratchFile is an open file with a text.
func scratchFile(t *testing.T, text string) *os.File {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "")
	if err == nil {
		_, err = f.WriteString(text)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// TestSwapThreads: both threads look at a plan and allocate nothing; without a
// trigger the watchdog is not armed.
func TestSwapThreads(t *testing.T) {
	loops, err := filepath.Glob("/sys/block/loop[0-9]*/inflight")
	if err != nil || len(loops) == 0 {
		t.Skip("needs a loop device")
	}
	page := &roomPage{}
	page.segment.Store(1000)
	page.cap.Store(2000)
	page.guarded.Store(1)
	page.halted.Store(1) // nothing is to be enabled here
	page.beat.Store(1)
	page.total.Store(1)
	threads, err := startSwapThreads(page, &crashRecord{}, filepath.Join(t.TempDir(), "none"), nil, nil)
	if err != nil {
		t.Skipf("needs /dev/loop0 and what /proc and /sys tell of it: %v", err)
	}
	for range 20 {
		time.Sleep(10 * time.Millisecond)
		page.beat.Add(1)
	}
	threads.stop.Store(true)
	threads.ended.Wait()
	threads.close()
	if page.settled.Load() != 1 || page.armed.Load() != 0 || page.held.Load() == 0 {
		t.Errorf("settled %d, armed %d, held back %d", page.settled.Load(), page.armed.Load(), page.held.Load())
	}
	if threads, err = startSwapThreads(page, &crashRecord{}, os.DevNull, nil, nil); err != nil {
		t.Fatal(err)
	}
	if page.armed.Load() != 1 {
		t.Error("the watchdog is not armed")
	}
	threads.stop.Store(true)
	threads.ended.Wait()
	if n := testing.AllocsPerRun(100, func() {
		page.beat.Add(1)
		threads.enabler.look()
		threads.guard.look()
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	threads.close()
}
