package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/spf13/cobra/doc"
)

// The man pages are written by a test, so that what makes them is no part of
// the program: make man.
var update = flag.Bool("update", false, "write docs/man")

// writeMan writes a man page per command. The date is the pages' own, so that
// they change only when the words do.
func writeMan(dir string) error {
	date := time.Date(2026, time.November, 1, 0, 0, 0, 0, time.UTC)
	header := &doc.GenManHeader{Section: "1", Date: &date, Source: "zramfs", Manual: "zramfs"}
	if err := doc.GenManTree(newRoot(), header, dir); err != nil {
		return fmt.Errorf("write man pages: %w", err)
	}
	return nil
}

// TestManPagesAreFresh fails when docs/man is not what the commands say now:
// run make man.
func TestManPagesAreFresh(t *testing.T) {
	fresh, kept := t.TempDir(), filepath.Join("..", "..", "docs", "man")
	if *update {
		if err := writeMan(kept); err != nil {
			t.Fatal(err)
		}
	}
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
			t.Errorf("%s is stale: run make man", name)
		}
	}
}
