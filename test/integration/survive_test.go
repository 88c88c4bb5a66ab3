package integration

import (
	"encoding/json"
	"errors"
	"fmt"
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

// load is a program that runs again and again until it is told to end, and
// must end well each time.
type load struct {
	t    *testing.T
	stop chan struct{}
	done chan struct{}
	// After done:
	rounds int
	slow   []time.Duration // the slowest operation of each round
	bytes  int64
	busy   time.Duration
	failed string
}

func startLoad(t *testing.T, round func(l *load) error) *load {
	l := &load{t: t, stop: make(chan struct{}), done: make(chan struct{})}
	t.Cleanup(l.halt) // before the mount ends
	go func() {
		defer close(l.done)
		for {
			start := time.Now()
			if err := round(l); err != nil {
				l.failed = err.Error()
				return
			}
			l.busy += time.Since(start)
			l.rounds++
			select {
			case <-l.stop:
				return
			default:
			}
		}
	}()
	return l
}

func (l *load) halt() {
	select {
	case <-l.stop:
	default:
		close(l.stop)
	}
	<-l.done
}

// end waits for the round that runs, and tells how the load did.
func (l *load) end() {
	l.t.Helper()
	l.halt()
	if l.failed != "" {
		l.t.Fatalf("round %d: %s", l.rounds+1, l.failed)
	}
	slowest := time.Duration(0)
	if len(l.slow) > 0 {
		slices.Sort(l.slow)
		slowest = l.slow[len(l.slow)-1]
	}
	l.t.Logf("%d rounds without an error, %.0f MiB/s, slowest operation %s",
		l.rounds, float64(l.bytes)/(1<<20)/l.busy.Seconds(), slowest.Round(time.Millisecond))
}

// startFio writes random blocks with a checksum in each and reads them back,
// at depth 32.
func startFio(t *testing.T, target string) *load {
	t.Helper()
	dir := scratch(t)
	return startLoad(t, func(l *load) error {
		cmd := exec.Command("fio", "--eta=never", "--output-format=json", "--name=survive", "--filename="+target,
			"--direct=1", "--ioengine=libaio", "--iodepth=32", "--rw=randwrite", "--bssplit=4k/60:16k/20:64k/20",
			"--size=48M", "--offset="+fmt.Sprint(l.rounds%8*48)+"M", "--randseed="+fmt.Sprint(l.rounds+1),
			"--verify=crc32c", "--verify_fatal=1", "--verify_backlog=256", "--buffer_compress_percentage=60", "--refill_buffers")
		cmd.Dir = dir // it leaves a file where verification fails
		out, err := cmd.Output()
		var report struct {
			Jobs []struct{ Read, Write fioSide }
		}
		if jsonErr := json.Unmarshal(out, &report); err == nil && jsonErr != nil {
			err = jsonErr
		}
		if err != nil {
			var exit *exec.ExitError
			if errors.As(err, &exit) {
				err = fmt.Errorf("fio: %w: %s%s", err, exit.Stderr, out)
			}
			return err
		}
		for _, j := range report.Jobs {
			l.bytes += j.Read.Bytes + j.Write.Bytes
			l.slow = append(l.slow, j.Read.Latency.Max, j.Write.Latency.Max)
		}
		return nil
	})
}

type fioSide struct {
	Bytes   int64 `json:"io_bytes"`
	Latency struct {
		Max time.Duration `json:"max"`
	} `json:"clat_ns"`
}

// startSwapper runs the program whose pages are verified.
func startSwapper(t *testing.T, s *swap) *load {
	t.Helper()
	return startLoad(t, func(l *load) error {
		cmd := exec.Command(swapperBinary, "-json", "-size", "192M", "-limit", "64M", "-corpus", "../../testdata/pages.zst",
			"-touches", "20000", "-seed", fmt.Sprint(l.rounds+1))
		out, err := cmd.Output()
		var report swapload.Report
		if err == nil {
			err = json.Unmarshal(out, &report)
		}
		if err != nil {
			return fmt.Errorf("swapper: %w: %s", err, out)
		}
		if report.Wrong != 0 || report.Bytes == 0 {
			return fmt.Errorf("%d pages of %d bytes came back wrong: %v", report.Wrong, report.Bytes, report.First)
		}
		for _, p := range report.Phases {
			l.bytes += int64(p.Pages) * pageSize
		}
		return nil
	})
}
