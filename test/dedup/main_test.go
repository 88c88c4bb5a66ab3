package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/zramfs/zramfs/internal/testpages"
)

// Twins are counted by their bytes: a page twice, a page with one bit changed,
// and same-filled pages, which need no object at all.
func TestMeasure(t *testing.T) {
	a, zero := testpages.Pages(t)[100], make([]byte, testpages.Size)
	b := bytes.Clone(a)
	b[4000] ^= 1
	r, err := measure([][]byte{a, zero, b, bytes.Clone(a), zero, bytes.Clone(b), a})
	if err != nil {
		t.Fatal(err)
	}
	if r.pages != 7 || r.same != 2 || r.twins != 3 || r.saved <= 0 || r.saved >= r.stored {
		t.Errorf("%+v", r)
	}
}

// The corpus is of programs that differ: nearly nothing in it is there twice.
func TestCorpus(t *testing.T) {
	var out strings.Builder
	if err := report(&out, []string{"../../testdata/pages.zst"}); err != nil {
		t.Fatal(err)
	}
	if lines := strings.Count(out.String(), "\n"); lines != 2 || !strings.Contains(out.String(), " 8195 ") {
		t.Errorf("the report is\n%s", out.String())
	}
}
