package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// TestManPagesAreFresh fails when docs/man is not what the commands say now:
// run go run ./cmd/zramfs man docs/man.
func TestManPagesAreFresh(t *testing.T) {
	fresh, kept := t.TempDir(), filepath.Join("..", "..", "docs", "man")
	if err := writeMan(fresh); err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, dir := range []string{fresh, kept} {
		files, err := filepath.Glob(filepath.Join(dir, "*.1"))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			names[filepath.Base(f)] = true
		}
	}
	if len(names) < 10 {
		t.Errorf("only %d pages", len(names))
	}
	for name := range names {
		want, _ := os.ReadFile(filepath.Join(fresh, name))
		got, _ := os.ReadFile(filepath.Join(kept, name))
		if !bytes.Equal(want, got) {
			t.Errorf("%s is stale: run go run ./cmd/zramfs man docs/man", name)
		}
	}
}
