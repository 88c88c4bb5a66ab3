package blockdev

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/zramfs/zramfs/compress"
	"github.com/zramfs/zramfs/internal/image"
)

// imageOfDisk reads all records of a disk, with reads of so many bytes.
func imageOfDisk(t *testing.T, d *Device, size int) map[uint64]image.Record {
	t.Helper()
	all := map[uint64]image.Record{}
	b := make([]byte, size)
	for next := uint64(0); next < uint64(d.Size()/PageSize); {
		n, err := showImage(d, b, int64(next*PageSize))
		if err != nil {
			t.Fatal(err)
		}
		before := next
		for rest := b[:n]; len(rest) > 0; {
			var r image.Record
			if r, rest, err = image.Parse(rest); err != nil {
				t.Fatal(err)
			}
			if r.Kind == image.Next {
				next = r.Page
				continue
			}
			if _, twice := all[r.Page]; twice {
				t.Fatalf("page %d comes twice", r.Page)
			}
			r.Payload = bytes.Clone(r.Payload)
			all[r.Page] = r
		}
		if next <= before {
			t.Fatalf("a read from page %d leads to page %d", before, next)
		}
	}
	return all
}

// What the image hands out is what a read gives, whatever a page is and however
// little is asked for at once; a page that cannot be read is lost.
func TestImage(t *testing.T) {
	const slots = 300
	cfg := testConfig(t)
	cfg.WriteBehind = 8
	cfg.Algorithm = params(t, "zstd(level=2)")
	d := newDevice(t, slots*PageSize, cfg)
	mixed(t, d, slots)
	drain(t, d)
	for _, slot := range []int64{7, 8} { // some of them are staged, perhaps
		write(t, d, stamped(t, uint64(slot)), slot*PageSize)
	}
	const victim = 104
	flip(d, victim)
	for _, size := range []int{imageLeast, 3*PageSize + 17, 64 << 10} {
		set := compress.NewSet(1)
		all := imageOfDisk(t, d, size)
		for slot := range uint64(slots) {
			want, page := make([]byte, PageSize), make([]byte, PageSize)
			_, readErr := d.ReadAt(want, int64(slot)*PageSize)
			switch r, ok := all[slot]; {
			case !ok:
			case r.Kind == image.Same:
				fill(page, r.Element(), 0)
			case r.Kind == image.Raw:
				copy(page, r.Payload)
			case r.Kind == image.Compressed:
				b := make([]byte, PageSize)
				n, err := showImage(d, b, image.ParamsAt+int64(r.Number)<<32)
				if err != nil {
					t.Fatal(err)
				}
				text, dict := image.Record{Payload: b[:n]}.Params()
				if text != "zstd(level=2) bare" || len(dict) != 0 {
					t.Fatalf("parameters %q with %d bytes of dictionary", text, len(dict))
				}
				p, err := compress.ParseFormat(text)
				if err != nil {
					t.Fatal(err)
				}
				id, err := set.Add(p)
				if err != nil {
					t.Fatal(err)
				}
				st := set.Stream(0)
				st.Lock()
				err = st.Decompress(id, page, r.Payload)
				st.Unlock()
				if err != nil {
					t.Fatal(err)
				}
			case r.Kind == image.Lost:
				if slot != victim || !errors.Is(readErr, ErrCorrupt) {
					t.Errorf("page %d is lost, and reads %v", slot, readErr)
				}
				continue
			}
			if slot == victim {
				t.Error("the damaged page is not lost")
			} else if readErr != nil || !bytes.Equal(page, want) {
				t.Fatalf("reads of %d bytes: page %d differs (%v)", size, slot, readErr)
			}
		}
	}
	flip(d, victim)
	for what, c := range map[string]struct {
		off  int64
		size int
	}{"between pages": {100, 1 << 16}, "too little": {0, imageLeast - 1}} {
		if _, err := showImage(d, make([]byte, c.size), c.off); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, off := range []int64{image.ParamsAt + 17<<32, image.ParamsAt + 1<<20} {
		if n, err := showImage(d, make([]byte, 100), off); n != 0 || err != nil {
			t.Errorf("parameters that are not there: %d bytes, %v", n, err)
		}
	}
	// The number of changes moves on with what is written and discarded, and
	// with nothing else.
	changes := func() string {
		b := make([]byte, 100)
		n, err := showImage(d, b, image.InfoAt)
		if err != nil {
			t.Fatal(err)
		}
		_, text, _ := strings.Cut(string(b[:n]), "changes ")
		return text
	}
	before := changes()
	drain(t, d)
	if err := store(d, "compact", "1"); err != nil {
		t.Fatal(err)
	}
	wantPage(t, d, 5, stamped(t, 5))
	if after := changes(); after != before {
		t.Errorf("changes %q after a read, before %q", after, before)
	}
	write(t, d, stamped(t, 6), 6*PageSize)
	if after := changes(); after == before {
		t.Error("no change after a write")
	}
}
