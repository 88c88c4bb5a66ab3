package keeper

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/zramfs/zramfs/internal/shm"
)

// Who has been touched everywhere needs no page for a page table any more,
// wherever the region lies in memory and its data in the region.
func TestMapperMapsEveryReach(t *testing.T) {
	const reaches = 32
	source := shm.OpenSource()
	defer source.Close()
	// An odd number of pages each, so that not all of them begin with a reach.
	for range 4 {
		r, err := source.Create("disk", reaches*tableReach+pageSize)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		// First and last page of every other reach of the file: in a region that
		// begins in the middle of one they lie in two.
		var pages []int64
		for at := int64(0); at < reaches*tableReach; at += 2 * tableReach {
			pages = append(pages, at, at+tableReach-pageSize)
		}
		for _, at := range pages {
			if err := r.Populate(at, pageSize); err != nil {
				t.Fatal(err)
			}
		}
		standby, err := shm.Adopt("disk", r.File())
		if err != nil {
			t.Fatal(err)
		}
		m := startMapper()
		m.add(standby)
		m.stop()
		m.finish()
		before := pageTables(t)
		for _, at := range pages {
			m.regard += int(standby.Bytes(at, 1)[0])
		}
		// The rest of this process may have needed one or two.
		if grown := pageTables(t) - before; grown > 4*pageSize {
			t.Errorf("page tables grew by %d bytes after all was mapped at %p", grown, standby.Base())
		}
	}
}

// pageTables is what this process's page tables take, in bytes.
func pageTables(t *testing.T) int64 {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var n int64
		if _, err := fmt.Sscanf(line, "VmPTE: %d kB", &n); err == nil {
			return n << 10
		}
	}
	t.Fatal("no VmPTE in /proc/self/status")
	return 0
}
