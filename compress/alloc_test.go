package compress

import (
	"runtime"
	"testing"

	"github.com/zramfs/zramfs/internal/invariants"
	"github.com/zramfs/zramfs/stable"
)

// pooled are the codecs whose library keeps tables in a sync.Pool: nothing keeps
// these across a garbage collection, so the first pages after one allocate again.
var pooled = map[string]bool{"zstd": true, "minlz": true, "s2": true}

func TestNoAllocations(t *testing.T) {
	if invariants.Enabled {
		t.Skip("needs a build without the race detector, under which a sync.Pool drops what it is given")
	}
	pages := sample(t, 7)
	for _, p := range every() {
		t.Run(name(p), func(t *testing.T) {
			st := one(t, p)
			out := make([]byte, PageSize)
			pass := func(page []byte) {
				c, err := st.Compress(0, stable.Borrow(page, nil))
				if err != nil {
					return
				}
				if err := st.Decompress(0, out, c); err != nil {
					t.Fatal(err)
				}
			}
			// AllocsPerRun rounds down and begins with a page that does not count. Where no
			// page may allocate, the first one and those after collections included, count all.
			if pooled[p.Codec] {
				i := 0
				if n := testing.AllocsPerRun(len(pages), func() { pass(pages[i%len(pages)]); i++ }); n != 0 {
					t.Errorf("%v allocations for each page", n)
				}
				return
			}
			least := ^uint64(0) // of three: the test's own runtime allocates a little at times
			for range 3 {
				st = one(t, p)
				var before, after runtime.MemStats
				var n uint64
				for i := 0; i < len(pages); {
					runtime.GC()
					runtime.GC() // the second drops what a sync.Pool saved from the first
					runtime.ReadMemStats(&before)
					for range 200 {
						pass(pages[i%len(pages)])
						i++
					}
					runtime.ReadMemStats(&after)
					n += after.Mallocs - before.Mallocs
				}
				least = min(least, n)
			}
			if least != 0 {
				t.Errorf("%d allocations in %d pages with garbage collections between", least, len(pages))
			}
		})
	}
}
