// Swapper runs with more memory than it may have, so that the kernel must
// swap, and verifies every page of it. The demo, the tests and the benchmark
// use it. With -device it writes the same pages to a file or block device
// instead.
//
// Exit codes: 0 all pages came back, 1 some did not, 2 it could not run, 3 it
// was killed.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"github.com/docker/go-units"

	"github.com/zramfs/zramfs/internal/swapload"
	"github.com/zramfs/zramfs/internal/testpages"
)

const (
	exitWrong  = 1
	exitUsage  = 2
	exitKilled = 3
)

// joinEnv tells the child which cgroup to enter once its corpus is loaded.
const joinEnv = "SWAPPER_JOIN"

type options struct {
	size, limit int64
	corpus      string
	base        int
	touches     int
	seed        uint64
	device      string
	procs       int
	latency     bool
	resp        bool
	json        bool
	progress    bool
}

func main() {
	o, err := parse(os.Args[1:])
	if err != nil {
		fail(err)
	}
	switch dir := os.Getenv(joinEnv); {
	case o.device != "":
		err = runDevice(o)
	case o.resp:
		err = writeCommands(o, os.Stdout)
	case dir == "" && o.limit > 0:
		err = runLimited(o)
	default:
		err = runHere(o, dir)
	}
	if err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "swapper:", strings.TrimPrefix(err.Error(), "swapload: "))
	os.Exit(exitUsage)
}

func parse(args []string) (*options, error) {
	o := &options{}
	var size, limit string
	fs := flag.NewFlagSet("swapper", flag.ExitOnError)
	fs.StringVar(&size, "size", "1G", "memory to use")
	fs.StringVar(&limit, "limit", "0", "memory it may have: limit of a memory cgroup made for this run; 0: none")
	fs.StringVar(&o.corpus, "corpus", "", "pages to fill the memory with (default testdata/pages.zst, here or beside this program's directory)")
	fs.IntVar(&o.base, "base", 0, "use only this many pages of the corpus; 0: all")
	fs.IntVar(&o.touches, "touches", -1, "random touches, half of them writes; -1: as many as there are pages")
	fs.Uint64Var(&o.seed, "seed", 1, "seed of the random touches")
	fs.StringVar(&o.device, "device", "", "write the pages to this file or block device, read them back, and end")
	fs.IntVar(&o.procs, "procs", 1, "share the memory among this many processes in the one cgroup of -limit")
	fs.BoolVar(&o.latency, "latency", false, "have the kernel swap the memory out, and time the touch of each page")
	fs.BoolVar(&o.resp, "resp", false, "print the pages as commands that fill a Redis, for redis-cli --pipe, and end")
	fs.BoolVar(&o.json, "json", false, "print the report as JSON")
	fs.BoolVar(&o.progress, "progress", false, "show how far it is, on standard error")
	if err := fs.Parse(args); err != nil {
		return nil, err
	}
	if fs.NArg() > 0 {
		return nil, fmt.Errorf("unexpected argument %q", fs.Arg(0))
	}
	var err error
	if o.size, err = units.RAMInBytes(size); err != nil || o.size < swapload.PageSize {
		return nil, fmt.Errorf("-size %s: want a size of at least a page, such as 1G", size)
	}
	if o.limit, err = units.RAMInBytes(limit); err != nil || o.limit < 0 {
		return nil, fmt.Errorf("-limit %s: want a size such as 256M, or 0", limit)
	}
	if o.procs < 1 || o.procs > 1 && o.limit == 0 {
		return nil, fmt.Errorf("-procs %d: want 1 or more, and more than one only with -limit", o.procs)
	}
	if o.touches < 0 {
		o.touches = int(o.size / swapload.PageSize)
	}
	if o.corpus == "" {
		o.corpus = findCorpus()
	}
	return o, nil
}

// findCorpus names the corpus of the tree that this program was built in.
func findCorpus() string {
	const name = "testdata/pages.zst"
	if exe, err := os.Executable(); err == nil {
		if path := filepath.Join(filepath.Dir(exe), "..", name); exists(path) && !exists(name) {
			return path
		}
	}
	return name
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// loadBase unpacks the corpus, copies it to locked memory, and gives the heap back.
func loadBase(o *options) (*swapload.Base, bool, error) {
	pages, err := testpages.Load(o.corpus)
	if err != nil {
		return nil, false, err
	}
	if o.base > 0 && o.base < len(pages) {
		// Evenly from the whole corpus, so that a part compresses like the whole.
		some := make([][]byte, o.base)
		for i := range some {
			some[i] = pages[i*len(pages)/o.base]
		}
		pages = some
	}
	base, locked, err := swapload.NewBase(pages)
	pages = nil
	debug.FreeOSMemory()
	return base, locked, err
}

// runHere is the load itself, in this process.
func runHere(o *options, join string) error {
	base, locked, err := loadBase(o)
	if err != nil {
		return err
	}
	debug.SetGCPercent(-1)
	// The kernel should rather kill this than anything else; no privilege is needed to say so.
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("1000"), 0)
	if join != "" {
		if err := swapload.Join(join); err != nil {
			return err
		}
	}
	cfg := swapload.Config{Base: base, Pages: int(o.size / swapload.PageSize), Touches: o.touches, Seed: o.seed, Memcg: join}
	if join != "" && o.procs > 1 {
		cfg.Turn = takeTurn
	}
	if o.progress {
		cfg.Progress = newProgress()
	}
	do := swapload.Run
	if o.latency {
		do = swapload.RunLatency
	}
	rep, err := do(cfg)
	if err != nil {
		return err
	}
	rep.Limit, rep.Locked = o.limit, rep.Locked && locked
	return show(o, rep)
}

// runDevice writes the pages to a device and reads them back.
func runDevice(o *options) error {
	base, locked, err := loadBase(o)
	if err != nil {
		return err
	}
	pages := int(o.size / swapload.PageSize)
	rep := &swapload.Report{Bytes: int64(pages) * swapload.PageSize, Locked: locked}
	for _, phase := range []struct {
		name string
		do   func() (int, error)
	}{
		{"fill", func() (int, error) { return 0, swapload.FillDevice(o.device, base, pages) }},
		{"verify", func() (int, error) { return swapload.VerifyDevice(o.device, base, pages) }},
	} {
		start := time.Now()
		wrong, err := phase.do()
		if err != nil {
			return err
		}
		s := time.Since(start).Seconds()
		rep.Wrong += wrong
		rep.Phases = append(rep.Phases, swapload.Phase{Name: phase.name, Pages: pages, Wrong: wrong, Seconds: s,
			PagesPerS: float64(pages) / s, MiBs: float64(rep.Bytes) / (1 << 20) / s})
	}
	return show(o, rep)
}

// show prints the report and ends the program.
func show(o *options, rep *swapload.Report) error {
	if o.json {
		enc := json.NewEncoder(os.Stdout)
		enc.SetIndent("", "  ")
		if err := enc.Encode(rep); err != nil {
			return err
		}
	} else {
		fmt.Print(table(rep))
	}
	if rep.Wrong > 0 {
		os.Exit(exitWrong)
	}
	return nil
}
