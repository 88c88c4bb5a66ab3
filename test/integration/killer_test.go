package integration

import (
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zramfs/zramfs/internal/host"
)

// death is a way to die.
type death struct {
	name  string
	fault bool // counts against the requests that were open
	die   func(k *killer)
}

// deaths are all ways to die, the plain kill most often.
func deaths() []death {
	kill := death{"SIGKILL", false, func(k *killer) { k.signal(k.worker(), unix.SIGKILL) }}
	return []death{
		kill, kill, kill, kill, kill,
		{"SIGTERM is ignored, then SIGKILL", false, func(k *killer) {
			pid := k.worker()
			k.signal(pid, unix.SIGTERM)
			k.signal(pid, unix.SIGKILL)
		}},
		{"SIGSEGV", true, func(k *killer) { k.signal(k.worker(), unix.SIGSEGV) }},
		{"SIGSTOP, SIGCONT", false, func(k *killer) {
			pid := k.worker()
			k.signal(pid, unix.SIGSTOP)
			time.Sleep(time.Duration(k.rng.IntN(100)) * time.Millisecond)
			k.signal(pid, unix.SIGCONT)
			k.survived--
		}},
		{"SIGKILL during compaction", false, func(k *killer) {
			pid := k.worker()
			go func() { // the next worker may be asked again, or the request be lost with it
				_ = os.WriteFile(k.m.block("compact"), []byte("1"), 0)
			}()
			time.Sleep(time.Duration(k.rng.IntN(5000)) * time.Microsecond)
			k.signal(pid, unix.SIGKILL)
		}},
		{"SIGKILL during recovery", false, func(k *killer) {
			before := k.workers()
			for _, pid := range before {
				k.signal(pid, unix.SIGKILL) // the one that serves and the one that waits
			}
			time.Sleep(time.Duration(k.rng.IntN(60)) * time.Millisecond)
			for _, pid := range k.workers() {
				if !slices.Contains(before, pid) {
					k.signal(pid, unix.SIGKILL)
				}
			}
		}},
		{"SIGKILL during an upgrade", false, func(k *killer) {
			upgrade := exec.Command(zramfsBinary, "upgrade", k.m.point)
			if err := upgrade.Start(); err != nil {
				k.m.t.Fatal(err)
			}
			time.Sleep(time.Duration(k.rng.IntN(150<<k.rng.IntN(5))) * time.Millisecond)
			if pids := k.workers(); len(pids) > 0 { // none: they are just being exchanged
				k.signal(pids[k.rng.IntN(len(pids))], unix.SIGKILL)
			}
			_ = upgrade.Wait() // it may have been in time, or be told that it failed
		}},
		{"the keeper", false, func(k *killer) {
			before := k.keeper()
			k.signal(before, unix.SIGKILL)
			await(k.m.t, "a new keeper", func() bool { return k.keeper() != before })
		}},
		{"two in a row", false, func(k *killer) {
			k.signal(k.worker(), unix.SIGKILL)
			k.signal(k.worker(), unix.SIGKILL)
		}},
	}
}

// killer kills the workers of a mount.
type killer struct {
	m        *mnt
	rng      *rand.Rand
	survived int
	started  int // generation before the first kill
}

func newKiller(m *mnt) *killer {
	m.t.Helper()
	k := &killer{m: m, rng: rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0))}
	k.started = k.generation()
	m.told.kills = true
	return k
}

// run kills n times at random moments, waiting after each for the next worker
// to answer.
func (k *killer) run(n int, ways []death) {
	k.m.t.Helper()
	var history []string
	defer func() {
		if k.m.t.Failed() {
			k.m.t.Logf("the deaths, in order: %s", strings.Join(history, "; "))
		}
	}()
	for range n {
		time.Sleep(time.Duration(k.rng.IntN(long(120, 60))) * time.Millisecond)
		way := ways[k.rng.IntN(len(ways))]
		history = append(history, way.name)
		way.die(k)
		k.survived++
		k.generation() // it answers again
		if k.survived%20 == 0 {
			k.m.check()
		}
	}
}

func (k *killer) signal(pid int, sig unix.Signal) {
	k.m.t.Helper()
	if sig == unix.SIGSEGV || sig == unix.SIGABRT || sig == unix.SIGBUS { // a fault of its own, as it looks
		k.m.told.faults++
	}
	if err := unix.Kill(pid, sig); err != nil && !errors.Is(err, unix.ESRCH) { // it may be dead of the last one
		k.m.t.Fatal(err)
	}
}

// worker is who serves now. It waits for one.
func (k *killer) worker() int {
	k.m.t.Helper()
	return int(k.m.stat("zramfs/daemon_stat", "worker_pid"))
}

func (k *killer) keeper() int {
	k.m.t.Helper()
	return int(k.m.stat("zramfs/daemon_stat", "keeper_pid"))
}

func (k *killer) generation() int {
	k.m.t.Helper()
	return int(k.m.stat("zramfs/daemon_stat", "generation"))
}

// workers are all processes that serve or would, by their command line.
func (k *killer) workers() (pids []int) {
	for pid, args := range commandLines() {
		if len(args) > 2 && args[1] == "worker" && args[2] == k.m.point {
			pids = append(pids, pid)
		}
	}
	return pids
}

// healthy looks at the device when the load is done: nothing waits, nothing
// failed, nothing is lost or leaked.
func (k *killer) healthy() {
	t := k.m.t
	t.Helper()
	if n := k.generation() - k.started; n < k.survived {
		t.Errorf("%d generations for %d kills", n, k.survived)
	}
	if n := numbers(t, k.m.get("io_stat")); n[0] != 0 || n[1] != 0 {
		t.Errorf("io_stat counts failed reads or writes: %v", n)
	}
	await(t, "no request of the kernel waits", func() bool { return waiting(t, k.m.point) == 0 })
	k.m.check()
	if n := k.m.stat("zramfs/integrity_stat", "corrupt"); n != 0 {
		t.Errorf("%d pages were found corrupt", n)
	}
	t.Logf("survived %d kills\n%s", k.survived, k.m.get("zramfs/crash_stat"))
}

// waiting is how many requests the kernel has open with a mount.
func waiting(t *testing.T, point string) int {
	t.Helper()
	m, ok, err := host.MountAt(point)
	if err != nil || !ok {
		t.Fatalf("no mount on %s: %v", point, err)
	}
	dir := t.TempDir() // not where it usually is: that may be mounted or read only
	if err := unix.Mount("fusectl", dir, "fusectl", 0, ""); err != nil {
		t.Skipf("needs a mount of fusectl: %v", err)
	}
	defer func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}()
	_, minor, _ := strings.Cut(m.Dev, ":")
	text, err := os.ReadFile(filepath.Join(dir, minor, "waiting"))
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	return n
}
