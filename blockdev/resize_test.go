package blockdev

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/zramfs/zramfs/internal/invariants"
	"github.com/zramfs/zramfs/internal/shm"
)

// A disk grows with what it holds, shrinks while its tail is empty, and says
// which page stands in the way if it is not.
func TestResize(t *testing.T) {
	d := newDevice(t, 8*PageSize, testConfig(t))
	first, last := stamped(t, 1), stamped(t, 2)
	write(t, d, first, 0)
	if _, err := d.WriteAt(last, 20*PageSize); !errors.Is(err, ErrNoSpace) {
		t.Errorf("a write beyond the end: %v", err)
	}
	if err := store(d, "resize", "81921"); err != nil { // 20 pages and a byte
		t.Fatal(err)
	}
	if n := d.Size(); n != 21*PageSize {
		t.Errorf("the disk has %d bytes, want 21 pages", n)
	}
	write(t, d, last, 20*PageSize)
	wantPage(t, d, 0, first)
	wantPage(t, d, 19, make([]byte, PageSize))
	for _, what := range []string{"size 86016\n", "used_to 86016\n", fmt.Sprintf("max_size %d\n", 64*PageSize)} {
		if text := show(t, d, "resize"); !strings.Contains(text, what) {
			t.Errorf("resize shows %q, want %q in it", text, what)
		}
	}

	err := store(d, "resize", "80K")
	if !errors.Is(err, ErrBusy) || !strings.Contains(err.Error(), "page 20 ") {
		t.Errorf("a shrink over a page in use: %v, want ErrBusy that names page 20", err)
	}
	wantPage(t, d, 20, last)
	if err := d.Discard(20*PageSize, PageSize); err != nil {
		t.Fatal(err)
	}
	if err := store(d, "resize", "80K"); err != nil {
		t.Fatal(err)
	}
	if n, err := d.ReadAt(make([]byte, PageSize), 20*PageSize); n != 0 || err != nil {
		t.Errorf("a read beyond the end: %d, %v", n, err)
	}
	if err := store(d, "resize", "64M"); !errors.Is(err, ErrRange) || d.Size() != 80<<10 {
		t.Errorf("a disk larger than its tables: %v, %d bytes", err, d.Size())
	}
	for _, value := range []string{"0", "-1", "much", ""} {
		if err := store(d, "resize", value); !errors.Is(err, ErrInvalid) {
			t.Errorf("resize %q: %v, want ErrInvalid", value, err)
		}
	}
	if err := store(d, "disksize", "1M"); !errors.Is(err, ErrBusy) {
		t.Errorf("disksize of a disk: %v, want ErrBusy as from the kernel", err)
	}
	if err := d.Reset(); err != nil {
		t.Fatal(err)
	}
	if err := store(d, "resize", "1M"); !errors.Is(err, ErrInvalid) {
		t.Errorf("resize before disksize: %v, want ErrInvalid", err)
	}
}

// Where the disk is cut into segments, it keeps its size, and no addresses are
// reserved for more.
func TestResizeOfSegments(t *testing.T) {
	cfg := testConfig(t)
	cfg.Reach = -1
	d := newDevice(t, 1<<20, cfg)
	for _, value := range []string{"2M", "512K"} {
		err := store(d, "resize", value)
		if !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), "segments") {
			t.Errorf("resize %s: %v, want ErrUnsupported and why", value, err)
		}
	}
	if err := store(d, "resize", "1M"); err != nil {
		t.Errorf("to the size that it has: %v", err)
	}
	if l := d.disk.Load().layout; l.capacity != l.slots {
		t.Errorf("room for %d slots, the disk has %d", l.capacity, l.slots)
	}
}

// Shrinking gives the tables of the tail back, and growing finds them empty.
func TestShrinkGivesTablesBack(t *testing.T) {
	const small, large = 16 << 20, 128 << 20
	cfg := testConfig(t)
	cfg.Reach = large
	d := newDevice(t, small, cfg)
	k := d.disk.Load()
	resident := func() int64 {
		n, err := k.region.Resident()
		if err != nil {
			t.Fatal(err)
		}
		return n - k.pool.Stats().Committed*PageSize
	}
	before := resident()
	if err := d.Resize(large); err != nil {
		t.Fatal(err)
	}
	page := make([]byte, PageSize)
	fill(page, 0x0123456789abcdef, 0) // in the table of elements
	for off := int64(small); off < large; off += 64 * PageSize {
		write(t, d, page, off)
	}
	if grown := resident(); grown < before+100*PageSize {
		t.Fatalf("the tables take %d bytes, %d before: this test is none", grown, before)
	}
	if err := d.Discard(small, large-small); err != nil {
		t.Fatal(err)
	}
	if err := d.Resize(small); err != nil {
		t.Fatal(err)
	}
	if after := resident(); after > before+8*PageSize {
		t.Errorf("the tables take %d bytes, %d before it grew", after, before)
	}
	if err := d.Check(); err != nil {
		t.Error(err)
	}
	if err := d.Resize(large); err != nil {
		t.Fatal(err)
	}
	for off := int64(small); off < large; off += 64 * PageSize {
		wantPage(t, d, uint64(off/PageSize), make([]byte, PageSize))
	}
}

// The highest page in use is found wherever the bits of the tables lie.
func TestHighest(t *testing.T) {
	const slots = 70 * 64 * slotsPerTablePage / 64
	cfg := testConfig(t)
	cfg.Reach = -1
	d := newDevice(t, slots*PageSize, cfg)
	k := d.disk.Load()
	if top, any := k.table.highest(0); any {
		t.Errorf("an empty disk has page %d in use", top)
	}
	page := stamped(t, 3)
	for _, slot := range []uint64{0, 1, 511, 512, 513, 64*slotsPerTablePage - 1, 64 * slotsPerTablePage, slots - 1} {
		write(t, d, page, int64(slot)*PageSize)
		for _, from := range []uint64{0, slot / 2, slot} {
			if top, any := k.table.highest(from); !any || top != slot {
				t.Errorf("the highest from %d is %d, %v; want %d", from, top, any, slot)
			}
		}
		if top, any := k.table.highest(slot + 1); any {
			t.Errorf("above page %d there is %d", slot, top)
		}
	}
}

// put does a write or a discard to plain bytes.
func (m *model) put(o operation) {
	if o.kind == 'w' {
		copy(m.disk[o.off:], o.fill)
	} else {
		clear(m.disk[o.off:][:o.n])
	}
}

// Random operations, sizes, limits and policies against plain bytes, with the
// worker killed now and then: each read agrees, the size is what it was last set
// to, and nothing is lost.
func TestResizeModel(t *testing.T) {
	const most = 96 * PageSize
	operations := 1500
	if invariants.Enabled {
		operations = 700
	}
	for seed := range uint64(3) {
		cfg := testConfig(t)
		cfg.Reach = most
		cfg.WriteBehind = int(seed) * 4
		size := int64(24 * PageSize)
		g := newGenerations(t, size, cfg)
		r := rand.New(rand.NewPCG(seed, 17))
		m := &model{disk: make([]byte, size)}
		resized, busy, refused := 0, 0, 0
		for i := range operations {
			d := g.device()
			switch r.IntN(12) {
			case 0, 1:
				n := (1 + r.Int64N(most/PageSize)) * PageSize
				empty := n >= size || len(bytes.Trim(m.disk[n:], "\x00")) == 0
				switch err := d.Resize(n); {
				case err == nil && empty:
					m.disk = append(m.disk[:min(n, size)], make([]byte, max(0, n-size))...)
					size = n
					resized++
				case errors.Is(err, ErrBusy) && n < size: // a page may hold zeroes
					busy++
					if err := d.Discard(n, size-n); err != nil {
						t.Fatal(err)
					}
					clear(m.disk[n:])
				default:
					t.Fatalf("seed %d, operation %d: resize from %d to %d: %v", seed, i, size, n, err)
				}
			case 2:
				for name, value := range map[string]string{
					"mem_limit":    []string{"0", "0", "64K", "400K"}[r.IntN(4)],
					"limit_policy": []string{"none", "compact", "compact,wait=1ms", "recompress,writeback,compact,wait=2ms"}[r.IntN(4)],
				} {
					if err := store(d, name, value); err != nil {
						t.Fatal(err)
					}
				}
			case 3:
				if r.IntN(10) == 0 {
					g.kill(r)
					if n := g.device().Size(); n != size {
						t.Fatalf("seed %d, operation %d: the next worker has %d bytes, want %d", seed, i, n, size)
					}
				}
			default:
				o := draw(t, r, size)
				old := bytes.Clone(m.disk)
				switch err := apply(d, m, o); {
				case errors.Is(err, ErrNoSpace) && o.kind != 'r' && o.kind != 'f':
					// Pages that were stored before it stay; each page is old or new.
					refused++
					got := read(t, d, int(size), 0)
					new := &model{disk: bytes.Clone(old)}
					new.put(o)
					for at := int64(0); at < size; at += PageSize {
						page := got[at:][:PageSize]
						if !bytes.Equal(page, old[at:][:PageSize]) && !bytes.Equal(page, new.disk[at:][:PageSize]) {
							t.Fatalf("seed %d, operation %d, %v was refused: page %d is neither old nor new", seed, i, o, at/PageSize)
						}
					}
					m.disk = got
				case err != nil:
					t.Fatalf("seed %d, operation %d: %v", seed, i, err)
				}
			}
			if i%100 == 99 {
				if err := g.device().Check(); err != nil {
					t.Fatalf("seed %d, after operation %d: %v", seed, i, err)
				}
			}
		}
		if got := read(t, g.device(), int(size), 0); !bytes.Equal(got, m.disk) {
			t.Fatalf("seed %d: the disk ends otherwise than the model: %s", seed, firstDifference(got, m.disk))
		}
		if resized == 0 || busy == 0 || refused == 0 || g.kills == 0 {
			t.Errorf("seed %d: %d resizes, %d busy, %d refused, %d kills: some never happened", seed, resized, busy, refused, g.kills)
		}
		g.end()
	}
}

// Sizes change while others write and discard: who writes below the smallest
// size never notices, who writes above it finds the page or the end of the disk.
func TestResizeUnderLoad(t *testing.T) {
	const small, large = 64 * PageSize, 256 * PageSize
	cfg := testConfig(t)
	cfg.Reach = large
	d := newDevice(t, small, cfg)
	stop := make(chan struct{})
	var writers sync.WaitGroup
	for w := range 2 {
		writers.Go(func() {
			r := rand.New(rand.NewPCG(uint64(w), 23))
			for n := uint64(0); ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				page := stamped(t, n)
				slot := int64(w) + 2*r.Int64N(small/PageSize/2)
				write(t, d, page, slot*PageSize)
				wantPage(t, d, uint64(slot), page)
				slot = small/PageSize + int64(w) + 2*r.Int64N((large-small)/PageSize/2)
				if _, err := d.WriteAt(page, slot*PageSize); err == nil {
					got := make([]byte, PageSize)
					if n, err := d.ReadAt(got, slot*PageSize); err != nil || n != PageSize || !bytes.Equal(got, page) {
						t.Errorf("slot %d: %d, %v: a page that was written is not there", slot, n, err)
					}
				} else if !errors.Is(err, ErrNoSpace) {
					t.Errorf("slot %d: %v", slot, err)
				}
				if err := d.Discard(slot*PageSize, PageSize); err != nil {
					t.Error(err)
				}
			}
		})
	}
	shrunk := 0
	for i := 0; i < 20000 && shrunk < 50; i++ {
		if err := d.Resize(large); err != nil {
			t.Error(err)
		}
		if err := d.Resize(small); err == nil {
			shrunk++
		} else if !errors.Is(err, ErrBusy) {
			t.Error(err)
		}
	}
	close(stop)
	writers.Wait()
	if shrunk == 0 {
		t.Error("it never shrank")
	}
}

// frailSource makes regions of which nothing more can be committed while fail is set.
type frailSource struct {
	*source
	fail atomic.Bool
}

func (s *frailSource) Create(name string, size int64) (*shm.Region, error) {
	r, err := s.source.Create(name, size)
	if err == nil {
		r.BeforePopulate = func(int64, int64) error {
			if s.fail.Load() {
				return errInjected
			}
			return nil
		}
	}
	return r, err
}

// A disk that cannot get what it needs to grow keeps its size, and can grow later.
func TestGrowFails(t *testing.T) {
	cfg := testConfig(t)
	src := &frailSource{source: cfg.Source.(*source)}
	cfg.Source = src
	d := newDevice(t, 16*PageSize, cfg)
	page := stamped(t, 5)
	write(t, d, page, 0)
	src.fail.Store(true)
	if err := d.Resize(64 * PageSize); !errors.Is(err, errInjected) || d.Size() != 16*PageSize {
		t.Errorf("grow without memory: %v, %d bytes", err, d.Size())
	}
	src.fail.Store(false)
	if err := d.Resize(64 * PageSize); err != nil || d.Size() != 64*PageSize {
		t.Errorf("grow: %v, %d bytes", err, d.Size())
	}
	write(t, d, page, 63*PageSize)
	wantPage(t, d, 0, page)
}
