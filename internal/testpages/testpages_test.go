package testpages

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

func TestCorpusIsWhatItsReadmeSays(t *testing.T) {
	pages := Pages(t)
	if len(pages) != 8195 {
		t.Fatalf("%d pages, README says 8195", len(pages))
	}
	zero := make([]byte, Size)
	for i, p := range pages {
		if len(p) != Size || cap(p) != Size {
			t.Fatalf("page %d: len %d cap %d", i, len(p), cap(p))
		}
		if bytes.Equal(p, zero) {
			t.Fatalf("page %d is all zeros", i)
		}
	}
}

func TestLoadErrors(t *testing.T) {
	dir := t.TempDir()
	if _, err := Load(filepath.Join(dir, "absent")); err == nil {
		t.Error("an absent file was loaded")
	}
	bad := filepath.Join(dir, "bad")
	if err := os.WriteFile(bad, []byte("not zstd at all"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(bad); err == nil {
		t.Error("a file that is not zstd was loaded")
	}
}
