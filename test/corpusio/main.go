// Corpusio does what fio does, with pages of real memory: it writes pages of
// the corpus to a file or block device, or reads such a file, at random page
// offsets or in order, and reports in fio's form. fio cannot take the data of 4 KiB
// writes from a file.
//
// As fio's jobs are, each job is a thread; at depth 1 it uses pread and pwrite,
// deeper io_submit (libaio), past the page cache.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/docker/go-units"
	"golang.org/x/sys/unix"

	"github.com/zramfs/zramfs/internal/testpages"
)

const pageSize = testpages.Size

type options struct {
	file    string
	corpus  string
	bs      int
	size    int64
	depth   int
	jobs    int
	rw      string
	runtime time.Duration
	pages   int64
}

func main() {
	o, err := parse()
	if err == nil {
		err = run(o)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "corpusio:", err)
		os.Exit(1)
	}
}

func parse() (*options, error) {
	o := &options{}
	var bs, size string
	flag.StringVar(&o.file, "file", "", "file or block device")
	flag.StringVar(&o.corpus, "corpus", "testdata/pages.zst", "pages to write")
	flag.StringVar(&bs, "bs", "4k", "length of a request")
	flag.StringVar(&size, "size", "512m", "requests go to this much of the file")
	flag.IntVar(&o.depth, "depth", 1, "requests under way, of each job")
	flag.IntVar(&o.jobs, "jobs", 1, "threads")
	flag.StringVar(&o.rw, "rw", "randread", "read, write, rw, randread, randwrite or randrw")
	flag.DurationVar(&o.runtime, "runtime", time.Second, "how long")
	flag.Int64Var(&o.pages, "requests", 0, "end after this many requests of each job; 0: after -runtime")
	flag.Parse()
	b, err := units.RAMInBytes(bs)
	if err != nil || b < pageSize || b%pageSize != 0 {
		return nil, fmt.Errorf("-bs %s: want whole pages of 4k", bs)
	}
	o.bs = int(b)
	if o.size, err = units.RAMInBytes(size); err != nil || o.size < b {
		return nil, fmt.Errorf("-size %s: want at least one request", size)
	}
	if o.depth < 1 || o.jobs < 1 {
		return nil, fmt.Errorf("-depth %d -jobs %d: want 1 or more", o.depth, o.jobs)
	}
	switch o.rw {
	case "read", "write", "rw", "randread", "randwrite", "randrw":
	default:
		return nil, fmt.Errorf("-rw %s: want read, write, rw, or these with rand before", o.rw)
	}
	return o, nil
}

func run(o *options) error {
	data, err := loadCorpus(o.corpus)
	if err != nil {
		return err
	}
	jobs := make([]*job, o.jobs)
	for i := range jobs {
		f, err := os.OpenFile(o.file, os.O_RDWR|unix.O_DIRECT, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		if jobs[i], err = newJob(o, i, f, data); err != nil {
			return err
		}
	}
	errs := make([]error, len(jobs))
	var done sync.WaitGroup
	began := cpuTime() // loading the corpus is no part of it
	start := time.Now()
	for i, j := range jobs {
		done.Go(func() {
			runtime.LockOSThread()
			errs[i] = j.run(start.Add(o.runtime))
		})
	}
	done.Wait()
	elapsed := time.Since(start)
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return json.NewEncoder(os.Stdout).Encode(summary(o, jobs, elapsed, cpuTime().less(began)))
}

// loadCorpus lays the pages in memory that may be given to direct I/O.
func loadCorpus(path string) ([]byte, error) {
	pages, err := testpages.Load(path)
	if err != nil {
		return nil, err
	}
	mem, err := unix.Mmap(-1, 0, len(pages)*pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("map the corpus: %w", err)
	}
	for i, p := range pages {
		copy(mem[i*pageSize:], p)
	}
	return mem, nil
}
