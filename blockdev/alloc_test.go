package blockdev

import (
	"fmt"
	"testing"

	"github.com/zramfs/zramfs/internal/invariants"
)

// What lies on the backing device costs nothing on the heap either, whether it
// is read, written over, patched or emptied, and wherever its page goes then.
func TestNoAllocationWithBacking(t *testing.T) {
	if invariants.Enabled {
		t.Skip("needs a build without the race detector and the invariants, which allocate")
	}
	for _, frames := range []int{0, 16} {
		for _, packed := range []int{0, 1} {
			for _, promote := range []int{0, 3600} {
				name := fmt.Sprintf("%d frames, packed %d, promote %d", frames, packed, promote)
				t.Run(name, func(t *testing.T) {
					allocationsWithBacking(t, fmt.Sprintf("write_behind=%d", frames), fmt.Sprintf("compressed_writeback=%d", packed),
						fmt.Sprintf("writeback_promote=%d", promote))
				})
			}
		}
	}
}

func allocationsWithBacking(t *testing.T, attributes ...string) {
	const pages, runs = 512, 200
	d, _ := backedDevice(t, pages, 2*pages, attributes...)
	r, answered := newRequest(OpRead, 0)
	page := make([]byte, 2*PageSize)
	for _, c := range []struct {
		name     string
		op       Op
		off, len int
		data     []byte
	}{
		{"read", OpRead, 0, PageSize, page},
		{"read of two pages", OpRead, 0, 2 * PageSize, page},
		{"read of a part", OpRead, 512, 1024, page},
		{"write", OpWrite, 0, PageSize, stamped(t, 9)},
		{"write of what does not compress", OpWrite, 0, PageSize, incompressible()},
		{"write of one element", OpWrite, 0, PageSize, page},
		{"write of a part", OpWrite, 512, 1024, stamped(t, 8)},
		{"discard", OpDiscard, 0, PageSize, nil},
		{"discard of a part", OpDiscard, 512, 1024, nil},
		{"zeroes", OpZero, 0, PageSize, nil},
		{"zeroes in a part", OpZero, 512, 1024, nil},
	} {
		fillPages(t, d, pages)
		eventually(t, "the end of compression", func() bool { return states(d, staged) == 0 })
		set(t, d, fmt.Sprintf("writeback=page_indexes=0-%d", pages-1))
		if n := states(d, backed); n != pages/4*3 { // the others hold one element
			t.Fatalf("%s: %d pages are on the backing device", c.name, n)
		}
		clear(page)
		i := 0
		if n := testing.AllocsPerRun(runs, func() {
			slot := i/3*4 + i%3 + 1 // the next of them
			i++
			r.Op, r.Off, r.Len, r.Data = c.op, int64(slot*PageSize+c.off), int64(c.len), nil
			if c.data != nil {
				r.Data = c.data[:c.len]
			}
			_, parked, err := d.Submit(r)
			if parked {
				err = <-answered
			}
			if err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations per request", c.name, n)
		}
	}
}
