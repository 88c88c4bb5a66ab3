package swapload

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"time"
	"unsafe"

	"github.com/HdrHistogram/hdrhistogram-go"
	"golang.org/x/sys/unix"
)

// Latency is how long touches of pages in swap took.
type Latency struct {
	Touches int     `json:"touches"`
	Major   int64   `json:"major_faults"` // touches that read from swap; the others found the page in memory
	P50     float64 `json:"p50_us"`
	P99     float64 `json:"p99_us"`
	P999    float64 `json:"p999_us"`
	Max     float64 `json:"max_us"`
}

// longest is the longest touch that is told apart.
const longest = 60 * time.Second

// RunLatency fills pages, has the kernel swap them out (MADV_PAGEOUT), and then
// touches each once, in random order, with a clock in hand. How many pages
// the kernel reads at a time is vm.page-cluster: 0 for one. A device that writes
// behind the kernel's back leaves the pages in the swap cache; only a cgroup's
// reclaim, with cfg.Memcg, gets them out of there.
func RunLatency(cfg Config) (*Report, error) {
	mem, err := mapMemory(cfg.Pages * PageSize)
	if err != nil {
		return nil, err
	}
	defer unix.Munmap(mem)
	gens, locked, err := generations(cfg.Pages)
	if err != nil {
		return nil, err
	}
	defer unmapGenerations(gens)
	l := &load{Config: cfg, mem: mem, gens: gens, rep: &Report{Bytes: int64(len(mem)), Locked: locked}}
	order := rand.New(rand.NewPCG(cfg.Seed, 4096)).Perm(cfg.Pages)
	took := hdrhistogram.New(1, int64(longest), 3)
	runtime.LockOSThread() // the faults are counted by thread
	defer runtime.UnlockOSThread()

	l.phase("fill", cfg.Pages, l.fill)
	const step = 512 // pages a call
	l.phase("pageout", (cfg.Pages+step-1)/step, func(i int, _ *Phase) {
		if err == nil {
			err = unix.Madvise(mem[i*step*PageSize:min((i+1)*step, cfg.Pages)*PageSize], unix.MADV_PAGEOUT)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("swapload: page out: %w", err)
	}
	last := &l.rep.Phases[1]
	last.Pages, last.MiBs = cfg.Pages, float64(len(mem))/(1<<20)/last.Seconds
	last.PagesPerS = float64(cfg.Pages) / last.Seconds

	if err := l.evict(); err != nil {
		return nil, err
	}
	before := majorFaults()
	var sum byte
	l.phase("touch", cfg.Pages, func(i int, _ *Phase) {
		page := l.page(order[i])
		start := time.Now()
		sum += page[PageSize-1]
		_ = took.RecordValue(min(int64(time.Since(start)), int64(longest))) // within its range
	})
	l.rep.Latency = &Latency{
		Touches: cfg.Pages, Major: majorFaults() - before,
		P50: micros(took.ValueAtQuantile(50)), P99: micros(took.ValueAtQuantile(99)),
		P999: micros(took.ValueAtQuantile(99.9)), Max: micros(took.Max()),
	}
	runtime.KeepAlive(sum)
	l.phase("final", cfg.Pages, l.verify)
	l.turn()
	return l.rep, nil
}

func micros(ns int64) float64 { return float64(ns) / 1000 }

// majorFaults counts the faults of this thread that waited for a device.
func majorFaults() int64 {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_THREAD, &u); err != nil {
		return 0
	}
	return u.Majflt
}

// evict waits until hardly a page is left in memory, a while at most: how many
// touches read from swap is told in the report.
func (l *load) evict() error {
	if l.Memcg == "" {
		return nil
	}
	present := make([]byte, l.Pages)
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if err := reclaim(l.Memcg); err != nil {
			return err
		}
		if _, _, e := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&l.mem[0])), uintptr(len(l.mem)),
			uintptr(unsafe.Pointer(&present[0]))); e != 0 {
			return fmt.Errorf("swapload: mincore: %w", e)
		}
		left := 0
		for _, p := range present {
			left += int(p & 1)
		}
		if left <= l.Pages/100 {
			break
		}
	}
	return nil
}
