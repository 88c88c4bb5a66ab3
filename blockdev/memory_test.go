package blockdev

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"

	"github.com/zramfs/zramfs/internal/invariants"
)

// column reads one number of a statistics file.
func column(t *testing.T, d *Device, name string, i int) int64 {
	t.Helper()
	n, err := strconv.ParseInt(strings.Fields(show(t, d, name))[i], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

const (
	mmOrig = iota
	mmCompr
	mmUsed
	mmLimit
	mmMax
	mmSame
	mmCompacted
	mmHuge
	mmHugeSince
)

// The request path allocates nothing, whatever becomes of the page.
func TestNoAllocationPerRequest(t *testing.T) {
	if invariants.Enabled {
		t.Skip("needs a build without the race detector and the invariants, which allocate")
	}
	for _, frames := range []int{0, 16} {
		cfg := testConfig(t)
		cfg.WriteBehind = frames
		d := newDevice(t, 64*PageSize, cfg)
		kinds := map[string][]byte{
			"real":           stamped(t, 3),
			"same":           make([]byte, PageSize),
			"incompressible": incompressible(),
			"part":           stamped(t, 4)[:512],
			"many":           append(stamped(t, 5), stamped(t, 6)...),
		}
		for kind, data := range kinds {
			answered := make(chan error, 1)
			r := &Request{Done: func(_ *Request, _ int, err error) { answered <- err }}
			for _, op := range []Op{OpWrite, OpRead, OpWrite, OpDiscard, OpWrite, OpZero, OpFlush} {
				if n := testing.AllocsPerRun(200, func() {
					r.Op, r.Off, r.Len, r.Data = op, 4096, int64(len(data)), data
					if _, parked, err := d.Submit(r); parked {
						if err := <-answered; err != nil {
							t.Fatal(err)
						}
					} else if err != nil {
						t.Fatal(err)
					}
				}); n != 0 {
					t.Errorf("frames %d, %s page, op %d: %v allocations per request", frames, kind, op, n)
				}
			}
		}
	}
}

// A million stored pages add less than a MiB to the Go heap, and all their
// memory comes back with a discard.
func TestMillionPages(t *testing.T) {
	pages := int64(1_000_000)
	if invariants.Enabled || testing.Short() {
		pages = 20_000
	}
	cfg := testConfig(t)
	cfg.ReserveLow, cfg.ReserveHigh = 8<<20, 16<<20
	d := newDevice(t, pages*PageSize, cfg)
	debug.FreeOSMemory()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)

	// Small objects, each its own: a counter in a page of few words.
	page := make([]byte, PageSize)
	r := &Request{}
	for i := range pages {
		binary.LittleEndian.PutUint64(page[i%500*8:], uint64(i)*0x9E3779B97F4A7C15)
		r.Op, r.Off, r.Data, r.Stream = OpWrite, i*PageSize, page, int(i)%2
		if _, err := d.Do(r); err != nil {
			t.Fatal(err)
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 1<<20 {
		t.Errorf("the Go heap grew by %d bytes with %d pages", grown, pages)
	}
	if n := column(t, d, "mm_stat", mmOrig); n != pages*PageSize {
		t.Errorf("orig_data_size %d, want %d", n, pages*PageSize)
	}
	full, err := d.disk.Load().region.Resident()
	if err != nil {
		t.Fatal(err)
	}

	if err := d.Discard(0, pages*PageSize); err != nil {
		t.Fatal(err)
	}
	d.disk.Load().keepUp()
	if used := column(t, d, "mm_stat", mmUsed); used != 0 {
		t.Errorf("mem_used_total %d after everything was discarded", used)
	}
	left, err := d.disk.Load().region.Resident()
	if err != nil {
		t.Fatal(err)
	}
	const descriptors = 40 // bytes for each page that the pool ever had; they stay
	tables := pages*(8+4+descriptors) + 4<<20
	if left > tables+cfg.ReserveHigh+8<<20 {
		t.Errorf("%d bytes are still resident of %d after the discard; tables and reserve explain %d", left, full, tables+cfg.ReserveHigh)
	}
}

// mem_limit bounds mem_used_total: past it a write gets ErrNoSpace, the old
// content stays, and reads go on.
func TestMemLimit(t *testing.T) {
	for _, frames := range []int{0, 8} {
		cfg := testConfig(t)
		cfg.WriteBehind = frames
		d := newDevice(t, 4096*PageSize, cfg)
		const limit = 1 << 20
		if err := store(d, "mem_limit", "1M"); err != nil {
			t.Fatal(err)
		}
		kept := map[uint64][]byte{}
		refused := 0
		for i := range uint64(2000) {
			slot := i % 1000
			p := stamped(t, i)
			_, err := d.WriteAt(p, int64(slot)*PageSize)
			switch {
			case err == nil:
				kept[slot] = p
			case errors.Is(err, ErrNoSpace):
				refused++
			default:
				t.Fatal(err)
			}
			if used := d.disk.Load().account.used.Load() * PageSize; used > limit {
				t.Fatalf("write %d: %d bytes used, the limit is %d", i, used, limit)
			}
		}
		if refused == 0 {
			t.Fatal("the limit was never met")
		}
		if n := column(t, d, "io_stat", 1); n != int64(refused) {
			t.Errorf("failed_writes %d, want %d", n, refused)
		}
		for slot, p := range kept {
			wantPage(t, d, slot, p)
		}
		// Lowered below what is stored: nothing is lost, nothing is taken.
		if err := store(d, "mem_limit", "64K"); err != nil {
			t.Fatal(err)
		}
		if _, err := d.WriteAt(incompressible(), 3000*PageSize); !errors.Is(err, ErrNoSpace) {
			t.Errorf("write far above the limit: %v, want ErrNoSpace", err)
		}
		// A same-filled page takes nothing and passes.
		write(t, d, make([]byte, PageSize), 3000*PageSize)
		for slot, p := range kept {
			wantPage(t, d, slot, p)
		}
		if err := store(d, "mem_limit", "0"); err != nil {
			t.Fatal(err)
		}
		write(t, d, stamped(t, 88888), 3001*PageSize)
	}
}

// A disk of 16 TiB costs nothing before it is used, and a discard of all of it
// costs what is held, not what could be.
func TestSparse(t *testing.T) {
	d := newDevice(t, MaxSize, testConfig(t))
	far := stamped(t, 9)
	write(t, d, far, MaxSize-PageSize)
	write(t, d, far[:100], MaxSize/2+50)
	if got := read(t, d, PageSize, MaxSize-PageSize); string(got) != string(far) {
		t.Fatal("the last page of 16 TiB differs")
	}
	resident, err := d.disk.Load().region.Resident()
	if err != nil {
		t.Fatal(err)
	}
	if resident > 16<<20 {
		t.Errorf("two pages on a disk of 16 TiB take %d bytes", resident)
	}
	if err := d.Discard(0, MaxSize); err != nil {
		t.Fatal(err)
	}
	if n := column(t, d, "mm_stat", mmOrig); n != 0 {
		t.Errorf("orig_data_size %d after everything was discarded", n)
	}
	if n := column(t, d, "io_stat", 3); n != MaxSize/PageSize {
		t.Errorf("notify_free %d, want %d", n, int64(MaxSize/PageSize))
	}
	if _, err := d.WriteAt(far, MaxSize); !errors.Is(err, ErrNoSpace) {
		t.Errorf("write at the end: %v, want ErrNoSpace", err)
	}
	if n, err := d.ReadAt(far, MaxSize); n != 0 || err != nil {
		t.Errorf("read at the end: %d, %v, want 0 bytes and no error", n, err)
	}
	if n, err := d.WriteAt(far, MaxSize-100); n != 100 || err != nil {
		t.Errorf("write across the end: %d, %v, want 100", n, err)
	}
	if n, err := d.ReadAt(far, MaxSize-100); n != 100 || err != nil {
		t.Errorf("read across the end: %d, %v, want 100", n, err)
	}
}

// A flipped bit in a word, a header or an object is an error and is counted;
// it is never a wrong byte, and a new write heals it.
func TestFlippedBits(t *testing.T) {
	set, err := NewSet(testConfig(t))
	if err != nil {
		t.Fatal(err)
	}
	id, err := set.HotAdd()
	if err != nil {
		t.Fatal(err)
	}
	d := set.Device(id)
	defer func() {
		if err := set.Close(); err != nil {
			t.Error(err)
		}
	}()
	if err := d.SetSize(8 * PageSize); err != nil {
		t.Fatal(err)
	}
	k := d.disk.Load()
	raw := incompressible()
	real := stamped(t, 1)
	write(t, d, real, 0)       // an object
	write(t, d, raw, PageSize) // a huge page
	object, hugePage := k.table.load(0), k.table.load(1)
	arena := k.layout.arena.off
	side := k.layout.side.off + int64(hugePage.place())*16/PageSize*8
	wrong := 0
	for _, c := range []struct {
		what string
		slot uint64
		off  int64 // in the region
		n    int64 // bytes, every bit of which is flipped in turn
	}{
		{"slot word of an object", 0, k.layout.words.off, 8},
		{"slot word of a huge page", 1, k.layout.words.off + 8, 8},
		{"object header", 0, arena + int64(object.place())*16, 8},
		{"object", 0, arena + int64(object.place())*16 + 8, int64(object.size())},
		{"huge page's owner and CRC", 1, side, 8},
		{"huge page", 1, arena + int64(hugePage.place())*16, 64},
	} {
		for i := range c.n * 8 {
			b := k.region.Bytes(c.off+i/8, 1)
			b[0] ^= 1 << (i % 8)
			_, err := d.ReadAt(make([]byte, PageSize), int64(c.slot)*PageSize)
			b[0] ^= 1 << (i % 8)
			if !errors.Is(err, ErrCorrupt) {
				t.Fatalf("%s, bit %d flipped: %v, want ErrCorrupt", c.what, i, err)
			}
			wrong++
		}
	}
	if got := show(t, d, "integrity_stat"); !strings.HasPrefix(got, fmt.Sprintf("corrupt %d\n", wrong)) {
		t.Errorf("integrity_stat %q, want %d", got, wrong)
	}
	if n := column(t, d, "io_stat", 0); n != int64(wrong) {
		t.Errorf("failed_reads %d, want %d", n, wrong)
	}
	wantPage(t, d, 0, real)
	wantPage(t, d, 1, raw)
	if err := d.Check(); err != nil {
		t.Fatalf("Check after every bit was put back: %v", err)
	}
	k.region.Bytes(c0(k, object), 1)[0] ^= 1
	if err := d.Check(); !errors.Is(err, ErrCorrupt) {
		t.Fatalf("Check with a bit flipped in an object: %v, want ErrCorrupt", err)
	}
	write(t, d, real, 0)
	wantPage(t, d, 0, real)
	if err := d.Check(); err != nil {
		t.Fatalf("Check after the page was written anew: %v", err)
	}
}

// c0 is where an object's bytes begin in the region.
func c0(k *disk, w word) int64 { return k.layout.arena.off + int64(w.place())*16 + 8 }
