package blockdev

import (
	"runtime"
	"strings"
	"testing"
)

// passOver runs a writeback of 16 pages up to the lock of the last, has f done
// while the first 15 wait in a batch to be written, and lets it end.
func passOver(t *testing.T, d *Device, what string, f func()) {
	t.Helper()
	k := d.disk.Load()
	last := &k.table.locks[15]
	last.Lock()
	ended := make(chan error, 1)
	go func() { ended <- store(d, "writeback", what) }()
	eventually(t, "that a pass comes to the last page", func() bool { return k.table.load(14).has(flagPP) })
	f()
	last.Unlock()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
}

// Two selectors may be about one page. What was written to it between the two is
// what it holds.
func TestWritebackSelectorsOverlap(t *testing.T) {
	for _, what := range []string{"page_indexes=0-15 page_index=3", "page_indexes=0-15 type=huge"} {
		d, _ := backedDevice(t, 16, 64)
		pages := make([][]byte, 16)
		for i := range pages {
			pages[i] = incompressible()
			write(t, d, pages[i], int64(i)*PageSize)
		}
		passOver(t, d, what, func() {
			pages[3] = incompressible()
			write(t, d, pages[3], 3*PageSize)
		})
		wantPages(t, d, pages)
		if n := states(d, backed); n != 16 {
			t.Errorf("%s: %d pages on the device", what, n)
		}
	}
}

// A page that becomes smaller just when it is to be marked is not marked at a
// size that comes later: else it would be marked twice, with a write between.
func TestWritebackOfPageThatShrinks(t *testing.T) {
	half := func() []byte {
		p := incompressible()
		clear(p[PageSize/2:])
		return p
	}
	d, _ := backedDevice(t, 16, 64)
	k := d.disk.Load()
	pages := make([][]byte, 16)
	for i := range pages {
		if pages[i] = incompressible(); i == 9 {
			pages[i] = half()
		}
		write(t, d, pages[i], int64(i)*PageSize)
	}
	const victim = 5
	lock := &k.table.locks[victim]
	lock.Lock()
	shrink := func() { // as writePage does
		pages[victim] = half()
		b, err := k.build(0, victim, pages[victim])
		if err != nil {
			t.Error(err)
		}
		old := k.commit(0, victim, k.table.load(victim), b)
		lock.Unlock()
		k.release(0, victim, old)
	}
	shrunk := make(chan struct{})
	go func() {
		defer close(shrunk)
		eventually(t, "that a pass waits for the page", func() bool {
			stacks := make([]byte, 1<<20)
			stacks = stacks[:runtime.Stack(stacks, true)]
			for _, s := range strings.Split(string(stacks), "\n\n") {
				if strings.Contains(s, "markPP") && strings.Contains(s, "Mutex).Lock") && k.table.load(victim-1).has(flagPP) {
					return true
				}
			}
			return false
		})
		shrink()
	}()
	passOver(t, d, "page_indexes=0-15", func() {
		<-shrunk
		size := k.table.load(victim).size()
		pages[victim] = half()
		write(t, d, pages[victim], victim*PageSize)
		if w := k.table.load(victim); w.size() != size || w.state() != stored {
			t.Errorf("%d bytes became %d", size, w.size()) // else the test shows nothing
		}
	})
	wantPages(t, d, pages)
}
