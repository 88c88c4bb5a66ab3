package compress

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/zramfs/zramfs/internal/invariants"
)

// The writer by itself: its codec would hide a page that does not come back.
func TestBrotliPages(t *testing.T) {
	pages := sample(t, 61)
	r := newBrotliReader()
	for level := 1; level <= 4; level++ {
		z := newBrotliWriter(level)
		var dst [outSize]byte
		var back [PageSize]byte
		for i, page := range pages {
			n := z.page(dst[:], (*[PageSize]byte)(page))
			if n != 0 && (!r.page(&back, dst[:n]) || !bytes.Equal(back[:], page)) {
				t.Fatalf("level %d: page %d comes back wrong", level, i)
			}
		}
	}
}

// The C library reads what we write, once its head is back.
func TestBrotliToolReads(t *testing.T) {
	tool, err := exec.LookPath("brotli")
	if err != nil {
		t.Skip("needs the brotli tool (Debian: brotli)")
	}
	head := brotliHead()
	for level := 1; level <= 4; level++ {
		st := one(t, Params{Codec: "brotli", Level: level})
		dir := t.TempDir()
		args := []string{"-d"}
		var want [][]byte
		for _, page := range sample(t, 211) {
			c, err := compressPage(st, page)
			if err != nil {
				continue
			}
			name := filepath.Join(dir, fmt.Sprintf("%d", len(want)))
			if err := os.WriteFile(name+".br", append(head[:], c...), 0o600); err != nil {
				t.Fatal(err)
			}
			args, want = append(args, name+".br"), append(want, page)
		}
		if out, err := exec.Command(tool, args...).CombinedOutput(); err != nil {
			t.Fatalf("level %d: %v: %s", level, err, out)
		}
		for i, page := range want {
			if got, err := os.ReadFile(filepath.Join(dir, fmt.Sprintf("%d", i))); err != nil || !bytes.Equal(got, page) {
				t.Fatalf("level %d, page %d: the tool reads something else: %v", level, i, err)
			}
		}
	}
}

// A higher level stores less.
func TestBrotliLevels(t *testing.T) {
	if invariants.Enabled {
		t.Skip("needs a build without checks, which is many times as fast; sizes are the same in all")
	}
	pages, before := sample(t, 97), 0
	for level := 1; level <= 4; level++ {
		st, total := one(t, Params{Codec: "brotli", Level: level}), 0
		for _, page := range pages {
			total += stored(st, page)
		}
		t.Logf("level %d: %d bytes a page", level, total/len(pages))
		if before != 0 && total >= before {
			t.Errorf("level %d stores %d bytes, the one below %d", level, total, before)
		}
		before = total
	}
}

// Any page: what is written is read, and a code of any counts is a code.
func FuzzBrotliWriter(f *testing.F) {
	for _, page := range sample(f, 1024) {
		f.Add(page)
	}
	z, r := newBrotliWriter(2), newBrotliReader()
	f.Fuzz(func(t *testing.T, data []byte) {
		var page, back [PageSize]byte
		for n := 0; len(data) != 0 && n < PageSize; { // short inputs repeat
			n += copy(page[n:], data)
		}
		var dst [outSize]byte
		n := z.page(dst[:], &page)
		if n < 0 || n >= PageSize || n != 0 && (!r.page(&back, dst[:n]) || back != page) {
			t.Fatalf("%d bytes come back wrong", n)
		}
		for _, c := range []*symbolWriter{&z.literals, &z.commands, &z.distances} {
			room, used := 1<<brotliDeepest, 0
			for s, k := range c.counts {
				if (k == 0) != (c.lengths[s] == 0) && k != 0 {
					used = -1 << 20 // alone, or forgotten
				}
				if c.lengths[s] != 0 {
					room -= 1 << brotliDeepest >> c.lengths[s]
					used++
				}
			}
			if used > 0 && room != 0 {
				t.Fatalf("a code of %d symbols leaves %d", used, room)
			}
		}
	})
}
