// Dedup says what it would bring to store identical pages once, and what it
// would cost: docs/adr/0016-dedup.md has its figures.
//
//	go run ./test/dedup FILE...
//
// A file is raw pages, as testdata/capture.py writes them, or a .zst of such;
// without one it is the corpus of the tests. Several equal programs in one file
// show what they have in common.
package main

import (
	"fmt"
	"hash/maphash"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/zramfs/zramfs/compress"
	"github.com/zramfs/zramfs/internal/testpages"
	"github.com/zramfs/zramfs/stable"
)

// entryBytes is what a hash table has to keep for each distinct page: 32 bits
// of a hash and of a slot number, and a reference count of 32, in a table that
// is three quarters full. Huge pages too: they are what pays most.
const entryBytes = 12 * 4 / 3

// result is what a file of pages holds. All sizes in bytes.
type result struct {
	pages, same, twins int   // twins: equal to a page before, and not same-filled
	stored, saved      int64 // of all objects; of the objects of twins
	hash, codec        time.Duration
}

func main() {
	files := os.Args[1:]
	if len(files) == 0 {
		files = []string{"testdata/pages.zst"}
	}
	if err := report(os.Stdout, files); err != nil {
		fmt.Fprintln(os.Stderr, "dedup:", err)
		os.Exit(1)
	}
}

// report prints a line for each file.
func report(w io.Writer, files []string) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "file\tpages\tsame\ttwins\t% of pages\tlz4 KiB\tsaved\ttable\tgain %\thash ns\tlz4 ns\t")
	for _, file := range files {
		pages, err := load(file)
		if err != nil {
			return err
		}
		r, err := measure(pages)
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		table := int64(r.pages-r.same-r.twins) * entryBytes
		n := time.Duration(r.pages)
		fmt.Fprintf(t, "%s\t%d\t%d\t%d\t%.2f\t%d\t%d\t%d\t%.2f\t%d\t%d\t\n", file, r.pages, r.same, r.twins, percent(int64(r.twins), int64(r.pages)),
			r.stored>>10, r.saved>>10, table>>10, percent(r.saved-table, r.stored), r.hash/n, r.codec/n)
	}
	return t.Flush()
}

func percent(a, b int64) float64 { return 100 * float64(a) / float64(max(b, 1)) }

// load reads pages, packed or not.
func load(file string) ([][]byte, error) {
	if strings.HasSuffix(file, ".zst") {
		return testpages.Load(file)
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var pages [][]byte
	for ; len(raw) >= testpages.Size; raw = raw[testpages.Size:] {
		pages = append(pages, raw[:testpages.Size])
	}
	return pages, nil
}

// measure counts the pages that are equal to one before, by their bytes and
// not by a hash, and what each takes as an object.
func measure(pages [][]byte) (r result, err error) {
	p, err := compress.ParseAlgorithm("lz4")
	if err != nil {
		return r, err
	}
	codecs := compress.NewSet(1)
	id, err := codecs.Add(p)
	if err != nil {
		return r, err
	}
	stream := codecs.Stream(0)
	stream.Lock()
	defer stream.Unlock()
	seed := maphash.MakeSeed()
	seen := map[string]bool{}
	r.pages = len(pages)
	for _, page := range pages {
		if sameFilled(page) {
			r.same++
			continue
		}
		start := time.Now()
		_ = maphash.Bytes(seed, page)
		hashed := time.Now()
		object, err := stream.Compress(id, stable.Borrow(page, nil))
		r.hash, r.codec = r.hash+hashed.Sub(start), r.codec+time.Since(hashed)
		n := int64(testpages.Size)
		if err == nil {
			n = int64(len(object))
		}
		r.stored += n
		if seen[string(page)] {
			r.twins++
			r.saved += n
		}
		seen[string(page)] = true
	}
	return r, nil
}

// sameFilled says whether one machine word fills the page.
func sameFilled(page []byte) bool { return string(page[8:]) == string(page[:len(page)-8]) }
