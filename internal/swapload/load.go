package swapload

import (
	"fmt"
	"math/rand/v2"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Config is one run.
type Config struct {
	Base    *Base
	Pages   int    // of measured memory
	Touches int    // random touches; every second one rewrites its page
	Seed    uint64 // of the random touches
	// Turn is called before each phase and after the last, and may wait: for
	// others that run at the same time; nil: there is nobody to wait for.
	Turn  func()
	Memcg string // directory of the cgroup that this process is in; "": none of its own
	// Progress is told now and then how far a phase is; nil: nobody asks.
	Progress func(phase string, done, of int)
}

// Phase is what one pass over the memory showed.
type Phase struct {
	Name      string  `json:"name"`
	Pages     int     `json:"pages"`
	Rewritten int     `json:"rewritten"`
	Wrong     int     `json:"wrong"`
	Seconds   float64 `json:"seconds"`
	MiBs      float64 `json:"mib_per_second"`
	PagesPerS float64 `json:"pages_per_second"`
	WorstMs   float64 `json:"worst_touch_ms"`
	Swapped   int64   `json:"swapped_bytes"` // of this process, when the phase ended
}

// Wrong is one page that did not come back as it should.
type Wrong struct {
	Phase string `json:"phase"`
	Page  int    `json:"page"`
	Kind  string `json:"kind"`
	Gen   uint32 `json:"generation"`
}

// Report is the outcome of a run.
type Report struct {
	Bytes   int64    `json:"bytes"`
	Limit   int64    `json:"limit_bytes,omitempty"`
	Phases  []Phase  `json:"phases"`
	Wrong   int      `json:"wrong_pages"`
	First   []Wrong  `json:"first_wrong,omitempty"` // at most maxWrong
	Swapped int64    `json:"swapped_bytes"`         // the most of any phase
	Locked  bool     `json:"base_locked"`
	Latency *Latency `json:"latency,omitempty"` // of RunLatency
}

// Merge adds the report of a process that ran at the same time, phase by phase:
// a phase of both takes as long as that of the slower.
func (r *Report) Merge(other *Report) {
	r.Bytes += other.Bytes
	r.Wrong += other.Wrong
	r.Swapped += other.Swapped
	r.Locked = r.Locked && other.Locked
	r.First = append(r.First, other.First...)
	r.First = r.First[:min(len(r.First), maxWrong)]
	for i := range min(len(r.Phases), len(other.Phases)) {
		p, o := &r.Phases[i], &other.Phases[i]
		p.Pages += o.Pages
		p.Rewritten += o.Rewritten
		p.Wrong += o.Wrong
		p.Seconds = max(p.Seconds, o.Seconds)
		p.PagesPerS = float64(p.Pages) / p.Seconds
		p.MiBs = p.PagesPerS * PageSize / (1 << 20)
		p.WorstMs = max(p.WorstMs, o.WorstMs)
		p.Swapped += o.Swapped
	}
}

// maxWrong bounds how many wrong pages a report names.
const maxWrong = 16

// batch is how many touches pass between two looks at the clock for progress.
const batch = 512

// load is a run under way. One goroutine owns it.
type load struct {
	Config
	mem  []byte
	gens []uint32 // locked memory: what each page's generation should be
	rep  *Report
}

// Run fills cfg.Pages pages of memory, verifies them in order, touches them
// at random, and verifies them again. A wrong page is not an error: the report
// counts it. An error means that the run could not be made.
func Run(cfg Config) (*Report, error) {
	if cfg.Pages <= 0 {
		return nil, fmt.Errorf("swapload: %d pages: there must be at least one", cfg.Pages)
	}
	mem, err := mapMemory(cfg.Pages * PageSize)
	if err != nil {
		return nil, err
	}
	defer unix.Munmap(mem)
	gens, genLocked, err := generations(cfg.Pages)
	if err != nil {
		return nil, err
	}
	defer unmapGenerations(gens)
	l := &load{Config: cfg, mem: mem, gens: gens, rep: &Report{Bytes: int64(len(mem)), Locked: genLocked}}

	// A page that cannot be read back is a SIGBUS: let it be a panic that check recovers.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	rng := rand.NewPCG(cfg.Seed, 4096)
	l.phase("fill", cfg.Pages, l.fill)
	l.phase("verify", cfg.Pages, l.verify)
	l.phase("random", cfg.Touches, func(n int, p *Phase) {
		i := int(rng.Uint64() % uint64(cfg.Pages))
		l.verify(i, p)
		if n%2 == 1 {
			l.gens[i]++
			l.fill(i, p)
			p.Rewritten++
		}
	})
	l.phase("final", cfg.Pages, l.verify)
	l.turn()
	return l.rep, nil
}

func (l *load) turn() {
	if l.Turn != nil {
		l.Turn()
	}
}

// phase calls touch n times and times it.
func (l *load) phase(name string, n int, touch func(int, *Phase)) {
	l.turn()
	p := Phase{Name: name, Pages: n}
	start := time.Now()
	last := start
	var worst time.Duration
	for i := range n {
		touch(i, &p)
		now := time.Now()
		worst = max(worst, now.Sub(last))
		last = now
		if i%batch == 0 && l.Progress != nil {
			l.Progress(name, i, n)
			last = time.Now()
		}
	}
	if l.Progress != nil {
		l.Progress(name, n, n)
	}
	p.Seconds = max(last.Sub(start).Seconds(), 1e-9)
	p.PagesPerS = float64(n) / p.Seconds
	p.MiBs = p.PagesPerS * PageSize / (1 << 20)
	p.WorstMs = float64(worst.Microseconds()) / 1000
	p.Swapped = swapped()
	l.rep.Swapped = max(l.rep.Swapped, p.Swapped)
	l.rep.Wrong += p.Wrong
	l.rep.Phases = append(l.rep.Phases, p)
}

func (l *load) page(i int) []byte { return l.mem[i*PageSize : (i+1)*PageSize : (i+1)*PageSize] }

func (l *load) fill(i int, p *Phase) {
	if kind := guard(func() Kind { l.Base.Fill(l.page(i), uint64(i), l.gens[i]); return Whole }); kind != Whole {
		l.wrong(i, kind, p)
	}
}

func (l *load) verify(i int, p *Phase) {
	if kind := guard(func() Kind { return l.Base.Check(l.page(i), uint64(i), l.gens[i]) }); kind != Whole {
		l.wrong(i, kind, p)
	}
}

func (l *load) wrong(i int, kind Kind, p *Phase) {
	p.Wrong++
	if len(l.rep.First) < maxWrong {
		l.rep.First = append(l.rep.First, Wrong{Phase: p.Name, Page: i, Kind: kind.String(), Gen: l.gens[i]})
	}
}

// guard turns the fault of an unreadable page into its kind.
func guard(touch func() Kind) (kind Kind) {
	defer func() {
		if r := recover(); r != nil {
			if _, fault := r.(interface{ Addr() uintptr }); !fault {
				panic(r)
			}
			kind = Unreadable
		}
	}()
	return touch()
}

// swapped reads how much of this process is in swap, in bytes; 0 if the kernel
// does not say.
func swapped() int64 {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	_, rest, found := strings.Cut(string(status), "VmSwap:")
	if !found {
		return 0
	}
	kib, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
	return kib << 10
}
