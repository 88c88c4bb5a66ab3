package blockdev

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/zramfs/zramfs/internal/invariants"
)

// model is what the disk should be: plain bytes.
type model struct{ disk []byte }

// operation is one step of a random history, drawn from a seed so that a
// failure can be run again.
type operation struct {
	kind byte // w write, r read, d discard, z zero, f flush, c compact, i idle, p recompress, a next algorithm
	off  int64
	n    int64
	fill []byte
}

func (o operation) String() string { return fmt.Sprintf("%c %d+%d", o.kind, o.off, o.n) }

// draw makes an operation for a disk of size bytes: mostly pages, sometimes
// any offset and length.
func draw(tb testing.TB, r *rand.Rand, size int64) operation {
	o := operation{}
	switch k := r.IntN(100); {
	case k < 50:
		o.kind = 'w'
	case k < 80:
		o.kind = 'r'
	case k < 90:
		o.kind = 'd'
	case k < 97:
		o.kind = 'z'
	case k < 99:
		o.kind = 'f'
	default:
		o.kind = 'c'
	}
	if r.IntN(3) > 0 {
		o.off = r.Int64N(size/PageSize) * PageSize
		o.n = min(PageSize*(1+r.Int64N(4)), size-o.off)
	} else {
		o.off = r.Int64N(size)
		o.n = min(1+r.Int64N(3*PageSize), size-o.off)
	}
	if o.kind == 'w' {
		for int64(len(o.fill)) < o.n {
			o.fill = append(o.fill, randomPage(tb, r)...)
		}
		o.fill = o.fill[:o.n]
	}
	return o
}

// apply does an operation on the disk and on the model, and compares what is
// read.
func apply(d *Device, m *model, o operation) error {
	var area []byte
	if o.stores() == nil {
		area = m.disk[o.off : o.off+o.n]
	}
	switch o.kind {
	case 'w':
		n, err := d.WriteAt(o.fill, o.off)
		copy(area, o.fill[:n])
		if err != nil || int64(n) != o.n {
			return fmt.Errorf("%v: %d, %w", o, n, err)
		}
	case 'r':
		got := make([]byte, o.n)
		if n, err := d.ReadAt(got, o.off); err != nil || int64(n) != o.n {
			return fmt.Errorf("%v: %d, %w", o, n, err)
		}
		if !bytes.Equal(got, area) {
			return fmt.Errorf("%v: %s", o, firstDifference(got, area))
		}
	case 'd', 'z':
		op := OpDiscard
		if o.kind == 'z' {
			op = OpZero
		}
		if _, err := d.Do(&Request{Op: op, Off: o.off, Len: o.n, Stream: int(o.off/PageSize) % 2}); err != nil {
			return fmt.Errorf("%v: %w", o, err)
		}
		clear(area)
	case 'f':
		if _, err := d.Do(&Request{Op: OpFlush}); err != nil {
			return fmt.Errorf("%v: %w", o, err)
		}
	default:
		for _, s := range o.stores() {
			if err := store(d, s[0], s[1]); err != nil {
				return fmt.Errorf("%v: %w", o, err)
			}
		}
	}
	return nil
}

// stores lists the attributes, with their values, that an operation stores to.
func (o operation) stores() [][2]string {
	switch o.kind {
	case 'c':
		return [][2]string{{"compact", "1"}}
	case 'i':
		return [][2]string{{"idle", "all"}}
	case 'p':
		all := []string{"", "type=idle", "type=huge", "type=huge_idle", "max_pages=3", "threshold=1000", "type=idle priority=2"}
		return [][2]string{{"recompress", all[o.n%int64(len(all))]}}
	case 'a':
		all := []string{"lz4", "zstd", "lz4(level=3)", "deflate"}
		return [][2]string{{"algorithm", all[o.n%int64(len(all))]}}
	}
	return nil
}

// drawControl makes an operation that changes how pages are stored and not what
// they are.
func drawControl(r *rand.Rand) operation {
	return operation{kind: "ippa"[r.IntN(4)], n: r.Int64N(100)}
}

// Random operations against plain bytes: each read agrees, and the disk's
// tables agree with each other every 200 operations and at the end.
func TestModel(t *testing.T) {
	seeds, operations := 20, 10_000 // each codec twice
	switch {
	case os.Getenv("ZRAMFS_LONG") == "1":
		seeds = 100
	case invariants.Enabled: // each operation costs ten times as much; the plain build does more
		seeds, operations = 10, 1000
	}
	const size = 96 * PageSize
	codecs := []string{"lz4", "lz4", "lz4", "zstd", "minlz", "s2", "lz4hc", "deflate", "brotli", "none", "lz4"}
	for seed := range uint64(seeds) {
		cfg := testConfig(t)
		cfg.Algorithm = params(t, codecs[seed%uint64(len(codecs))])
		if seed%2 == 1 {
			cfg.WriteBehind = 8
		}
		cfg.Recompress[0], cfg.Recompress[1] = params(t, "lz4hc"), params(t, "zstd")
		set, err := NewSet(cfg)
		if err != nil {
			t.Fatal(err)
		}
		id, err := set.HotAdd()
		if err != nil {
			t.Fatal(err)
		}
		d, m := set.Device(id), &model{disk: make([]byte, size)}
		if err := d.SetSize(size); err != nil {
			t.Fatal(err)
		}
		r := rand.New(rand.NewPCG(seed, 1))
		for i := range operations {
			o := draw(t, r, size)
			if r.IntN(25) == 0 {
				o = drawControl(r)
			}
			if err := apply(d, m, o); err != nil {
				t.Fatalf("seed %d, operation %d: %v", seed, i, err)
			}
			if i%200 == 199 || i == operations-1 {
				if err := d.Check(); err != nil {
					t.Fatalf("seed %d, after operation %d: Check: %v", seed, i, err)
				}
			}
		}
		if got := read(t, d, size, 0); !bytes.Equal(got, m.disk) {
			t.Fatalf("seed %d: the disk ends otherwise than the model: %s", seed, firstDifference(got, m.disk))
		}
		if err := set.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
