// Package testpages loads the corpus of real memory pages for tests and
// benchmarks: see testdata/README.md.
//
// The pages are shared by everything in one test binary. Nobody writes to them.
package testpages

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// Size is the length of a page in bytes.
const Size = 4096

// corpus is read once for each test binary.
var corpus = sync.OnceValues(func() ([][]byte, error) {
	path, err := find()
	if err != nil {
		return nil, err
	}
	return Load(path)
})

// find looks for the corpus beside this source, and then, for a binary built
// elsewhere or with -trimpath, in the working directory and those above it.
func find() (string, error) {
	const name = "testdata/pages.zst"
	if _, here, _, ok := runtime.Caller(0); ok && filepath.IsAbs(here) {
		path := filepath.Join(filepath.Dir(here), "../..", name)
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("testpages: %w", err)
	}
	for ; dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			return filepath.Join(dir, name), nil
		}
	}
	return "", fmt.Errorf("testpages: no %s beside the source or above the working directory", name)
}

// Pages gives the corpus: 8195 pages of 4096 bytes, read only, the same slices
// on every call.
func Pages(tb testing.TB) [][]byte {
	tb.Helper()
	pages, err := corpus()
	if err != nil {
		tb.Fatal(err)
	}
	return pages
}

// Load reads a zstd file of whole pages. All pages are slices of one buffer,
// each with its capacity limited to itself.
func Load(path string) ([][]byte, error) {
	packed, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("testpages: %w", err)
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1))
	if err != nil {
		return nil, fmt.Errorf("testpages: %w", err)
	}
	defer dec.Close()
	raw, err := dec.DecodeAll(packed, nil)
	if err != nil {
		return nil, fmt.Errorf("testpages: unpack %s: %w", path, err)
	}
	if len(raw) == 0 || len(raw)%Size != 0 {
		return nil, fmt.Errorf("testpages: %s holds %d bytes, not whole pages", path, len(raw))
	}
	pages := make([][]byte, len(raw)/Size)
	for i := range pages {
		pages[i] = raw[i*Size : (i+1)*Size : (i+1)*Size]
	}
	return pages, nil
}
