package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/zramfs/zramfs/internal/testpages"
)

// Every kind of job, at both depths, does what it says, and writes nothing but
// pages of the corpus.
func TestJobsWriteRealPages(t *testing.T) {
	known := map[string]bool{}
	var data []byte
	for _, p := range testpages.Pages(t)[:64] {
		known[string(p)] = true
		data = append(data, p...)
	}
	path := filepath.Join(t.TempDir(), "disk")
	const size = 64 * pageSize
	if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, rw := range []string{"randwrite", "write", "randread", "rw"} {
		for _, depth := range []int{1, 8} {
			o := &options{file: path, bs: 2 * pageSize, size: size, depth: depth, jobs: 1, rw: rw, pages: 100}
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			j, err := newJob(o, 0, f, data)
			if err != nil {
				t.Fatal(err)
			}
			if err := j.run(time.Time{}); err != nil {
				t.Fatalf("%s at depth %d: %v", rw, depth, err)
			}
			r := summary(o, []*job{j}, time.Second, cpu{time.Second / 4, time.Second / 2}).Jobs[0]
			if n := r.Read.IOPS + r.Write.IOPS; n != 100 || (rw == "randread") != (r.Write.Bytes == 0) {
				t.Errorf("%s at depth %d: %v requests a second, %+v", rw, depth, n, r)
			}
			if rw == "write" && r.Write.Latency.Percentile["99.900000"] <= 0 {
				t.Errorf("no latency: %+v", r.Write)
			}
			if r.User != 25 || r.System != 50 {
				t.Errorf("%v %% and %v %% of a second of CPU", r.User, r.System)
			}
			f.Close()
		}
	}
	disk, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	written := 0
	for p := range slices.Chunk(disk, pageSize) {
		if known[string(p)] {
			written++
		} else if !bytes.Equal(p, make([]byte, pageSize)) {
			t.Fatal("a page on the disk is none of the corpus")
		}
	}
	if written < 32 {
		t.Errorf("%d pages written of 64", written)
	}
}
