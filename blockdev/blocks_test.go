package blockdev

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

// mappedPages is the size of this process's address space.
func mappedPages(t *testing.T) (pages int64) {
	t.Helper()
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Sscan(string(b), &pages); err != nil {
		t.Fatal(err)
	}
	return pages
}

// Comparing the counts of a device's blocks with the words takes no memory, since
// requests wait for the end of it, and leaves the counts as they are, whatever
// is wrong with them.
func TestBlocksCheck(t *testing.T) {
	const n = 1 << 24 // a table of 18 MiB
	b, err := newBlocks(n)
	if err != nil {
		t.Fatal(err)
	}
	defer b.close()
	// Objects that share blocks, one across two of them, and a whole block.
	words := []word{
		makeWord(backed, 1, 1000, 0), makeWord(backed, 1, 3000, 16), makeWord(backed, 1, 2000, 48),
		makeWord(backed, 0, PageSize, 5*PageSize/awayUnit),
	}
	for _, w := range words {
		b.name(w)
	}
	b.hold(words[1]) // a passer-by
	for _, c := range []struct {
		name   string
		spoil  func()
		repair func()
		words  string // of the error; "": there is none
	}{
		{"sound", func() {}, func() {}, ""},
		{"one user too few", func() { b.drop(5, false) }, func() { b.add(5) }, "block 5 of the backing device counts fewer users"},
		{"one too many", func() { b.add(7) }, func() { b.drop(7, false) }, "that no word names"},
		{"too few here, too many there", func() { b.drop(5, false); b.add(0) }, func() { b.add(5); b.drop(0, false) }, "counts fewer"},
	} {
		c.spoil()
		before, most := mappedPages(t), int64(0)
		was := slices.Clone(b.counts[:16])
		err := b.check(func(yield func(w word)) {
			most = max(most, mappedPages(t)-before)
			for _, w := range words {
				yield(w)
			}
		})
		switch {
		case c.words == "" && err != nil, c.words != "" && (!errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), c.words)):
			t.Errorf("%s: %v, want %q", c.name, err, c.words)
		case !slices.Equal(b.counts[:16], was):
			t.Errorf("%s: the counts were %x and became %x", c.name, was, b.counts[:16])
		case most > 8<<20/PageSize:
			t.Errorf("%s: the check mapped %d pages", c.name, most)
		}
		c.repair()
	}
}
