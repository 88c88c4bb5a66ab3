package pool

import (
	"errors"
	"math/rand/v2"
	"runtime"
	"testing"

	"github.com/zramfs/zramfs/internal/invariants"
)

func TestEveryLength(t *testing.T) {
	r := newRig(t, 16, 2, PageSize+1)
	huge := r.pool.Geometry().HugeSize()
	for n := 1; n <= PageSize; n++ {
		if n >= huge && n < PageSize {
			if err := r.put(0, uint32(n), n); !errors.Is(err, ErrSize) {
				t.Fatalf("%d bytes: %v", n, err)
			}
			continue
		}
		r.store(n%2, uint32(n), n)
	}
	if _, err := r.pool.Put(0, 1, 1, nil); !errors.Is(err, ErrSize) {
		t.Errorf("no bytes: %v", err)
	}
	r.check()
	st := r.pool.Stats()
	if st.Objects != int64(huge) || st.Huge != 1 {
		t.Errorf("%d objects, %d huge: want %d, 1", st.Objects, st.Huge, huge)
	}
	for n := 1; n <= PageSize; n++ {
		r.free(uint32(n))
	}
	r.check()
	if st := r.pool.Stats(); st.Pages != 0 || st.Objects != 0 || st.Bytes != 0 || st.Huge != 0 {
		t.Errorf("after all was freed: %+v", st)
	}
}

func TestConfigIsChecked(t *testing.T) {
	r := newRig(t, 1, 1, 1)
	for name, change := range map[string]func(*Config){
		"geometry": func(c *Config) { c.Geometry = nil },
		"bytes":    func(c *Config) { c.ArenaBytes-- },
		"no bytes": func(c *Config) { c.ArenaBytes = 0 },
		"too many": func(c *Config) { c.ArenaBytes = MaxArena + ChunkSize },
		"slabs":    func(c *Config) { c.Slabs = 0 },
	} {
		cfg := r.cfg
		change(&cfg)
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	r.check()
}

func TestGetSaysWhatIsWrong(t *testing.T) {
	r := newRig(t, 2, 1, 4)
	r.store(0, 1, 1000)
	r.store(0, 2, PageSize)
	for owner := uint32(1); owner <= 2; owner++ {
		s := &r.slots[owner]
		sum := seed(owner, s.version)
		if _, err := r.pool.Get(s.place, owner+1, sum, s.size); !errors.Is(err, ErrCorrupt) {
			t.Errorf("wrong owner: %v", err)
		}
		if _, err := r.pool.Get(s.place, owner, sum+1, s.size); !errors.Is(err, ErrCorrupt) {
			t.Errorf("wrong seed: %v", err)
		}
		off := int64(s.place)*granule + 100
		r.arena.buf[off] ^= 4
		if _, err := r.pool.Get(s.place, owner, sum, s.size); !errors.Is(err, ErrCorrupt) {
			t.Errorf("flipped bit: %v", err)
		}
		r.arena.buf[off] ^= 4
	}
	// Any place and size, also where nothing is committed.
	for _, pl := range []Place{0, 1, 255, 256, ChunkSize / granule, 2*ChunkSize/granule - 1,
		2 * ChunkSize / granule, 1 << 34, 1 << 60, ^Place(0)} {
		for _, n := range []int{-1, 0, 1, 3000, 3624, 3625, PageSize, PageSize + 1, 1 << 40} {
			if _, err := r.pool.Get(pl, 3, 0, n); !errors.Is(err, ErrCorrupt) {
				t.Errorf("place %d size %d: %v", pl, n, err)
			}
		}
	}
	r.check()
}

func TestLimitKeepsWhatWasThere(t *testing.T) {
	r := newRig(t, 4, 2, 2000)
	r.maintain()
	r.account.limit.Store(100)
	rng := rand.New(rand.NewPCG(1, 1))
	refused := 0
	for range 5000 {
		err := r.put(rng.IntN(2), uint32(rng.IntN(2000)), sizes(rng))
		switch {
		case errors.Is(err, ErrLimit):
			refused++
		case errors.Is(err, ErrNoRoom):
			r.maintain()
		case err != nil:
			t.Fatal(err)
		}
		if got := r.account.pages.Load(); got > 100 {
			t.Fatalf("%d pages are taken", got)
		}
	}
	if refused == 0 {
		t.Error("the limit was never met")
	}
	r.check()
}

func TestFullArena(t *testing.T) {
	r := newRig(t, 1, 1, 1000)
	n := uint32(0)
	for ; ; n++ {
		err := r.put(0, n, PageSize)
		if errors.Is(err, ErrNoRoom) {
			r.maintain()
			n--
			continue
		}
		if errors.Is(err, ErrFull) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if n != chunkPages {
		t.Errorf("%d huge pages fit into a chunk", n)
	}
	r.check()
	// A hole of one page serves a huge page and no class of two.
	r.free(77)
	if err := r.put(0, 900, 3600); !errors.Is(err, ErrFull) {
		t.Errorf("a zspage of 8 pages in one: %v", err)
	}
	r.store(0, 901, PageSize)
	r.check()
}

// With every second page used no zspage of two pages fits, however many pages
// are free; the pages between two free ones come back from the dead.
func TestFragmentsAreNoRoom(t *testing.T) {
	r := newRig(t, 2, 1, 2000, reserve(32<<10, 64<<10))
	for i := range uint32(chunkPages) {
		r.store(0, i, PageSize)
	}
	for i := uint32(0); i < chunkPages; i += 2 {
		r.free(i)
	}
	r.maintain()
	before := r.pool.Stats()
	for i := range uint32(20) {
		r.store(0, 1000+i, 3600) // 8 pages of 9
	}
	r.check()
	if after := r.pool.Stats(); after.Commits == before.Commits {
		t.Error("fragments served a zspage of 8 pages")
	}
	for i := range uint32(2000) {
		r.free(i)
	}
	r.maintain()
	if st := r.pool.Stats(); st.Committed > st.Waste+128 {
		t.Errorf("kept too much: %+v", st)
	}
	r.check()
}

// The last gaps of a full arena are committed though no group is left.
func TestGapsOfAFullArena(t *testing.T) {
	r := newRig(t, 1, 1, 2000, reserve(32<<10, 32<<10))
	for i := range uint32(chunkPages) {
		r.store(0, i, PageSize)
	}
	for i := uint32(2); i < chunkPages; i += 8 { // gaps of 3 pages and of 1
		for _, j := range []uint32{0, 1, 2, 4} {
			r.free(i + j)
		}
	}
	r.maintain() // most of these are waste
	if st := r.pool.Stats(); st.Committed == chunkPages {
		t.Fatalf("no waste was given back: %+v", st)
	}
	for i := range uint32(2 * chunkPages / 8) {
		size := 2700 // three objects in two pages
		if i%2 == 0 {
			size = PageSize
		}
		r.store(0, 1000+i, size)
	}
	r.check()
}

func TestMemoryComesBack(t *testing.T) {
	r := newRig(t, 16, 1, 20000, onShm)
	rng := rand.New(rand.NewPCG(2, 2))
	for i := range uint32(15000) {
		r.store(0, i, sizes(rng))
	}
	full := r.pool.Stats()
	for i := range uint32(20000) {
		r.free(i)
	}
	r.maintain()
	st := r.pool.Stats()
	if want := r.cfg.ReserveHigh * 3 / 2 / PageSize; st.Committed > want || full.Committed < 4*want {
		t.Errorf("committed %d pages of %d, want at most %d", st.Committed, full.Committed, want)
	}
	r.check()
	if err := r.pool.Reset(); err != nil {
		t.Fatal(err)
	}
	if st := r.pool.Stats(); st.Committed != 0 {
		t.Errorf("after reset: %+v", st)
	}
	for _, m := range []Memory{r.cfg.Arena, r.cfg.Side} {
		err := m.Data(func(off, n int64) bool {
			t.Errorf("after reset there is data at %d", off)
			return true
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	r.store(0, 1, 100)
	r.check()
}

func TestWake(t *testing.T) {
	r := newRig(t, 4, 1, 4000)
	woken := func() bool {
		select {
		case <-r.pool.Wake():
			return true
		default:
			return false
		}
	}
	if err := r.put(0, 0, 100); !errors.Is(err, ErrNoRoom) || !woken() {
		t.Errorf("put into nothing: %v", err)
	}
	r.maintain()
	r.store(0, 0, 100)
	if woken() {
		t.Error("woken with a full reserve")
	}
	for i := uint32(1); !woken(); i++ {
		if err := r.put(0, i, PageSize); err != nil {
			t.Fatalf("no room before the low mark was told: %v", err)
		}
	}
	if st := r.pool.Stats(); st.Reserve*PageSize < r.cfg.ReserveLow/2 {
		t.Errorf("woken late: %+v", st)
	}
	for i := range uint32(1500) {
		r.store(0, i, PageSize)
	}
	woken()
	for i := range uint32(1500) {
		r.free(i)
	}
	if !woken() {
		t.Error("not woken for waste")
	}
	r.check()
}

// A slab takes what another has before it grows, and at the limit even what
// another is filling.
func TestSlabsShare(t *testing.T) {
	r := newRig(t, 4, 3, 4000)
	for i := range uint32(2000) {
		r.store(0, i, 1400)
	}
	for i := uint32(0); i < 2000; i += 2 {
		r.free(i)
	}
	before := r.pool.Stats().Pages
	for i := range uint32(900) {
		r.store(1+int(i%2), 2000+i, 1400)
	}
	if after := r.pool.Stats().Pages; after != before {
		t.Errorf("grew from %d to %d pages", before, after)
	}
	r.store(0, 3900, 600) // opens a zspage of slab 0
	r.account.limit.Store(0)
	if err := r.put(2, 3901, 600); err != nil {
		t.Errorf("an open zspage of another slab: %v", err)
	}
	r.check()
}

// A place that no object has, as a damaged word may name it, frees nothing.
func TestFreeOfNothing(t *testing.T) {
	for name, free := range map[string]func(p *Pool, at Place) error{
		"other size":    func(p *Pool, at Place) error { return p.Free(at, 500) },
		"other place":   func(p *Pool, at Place) error { return p.Free(at+1, 100) },
		"free page":     func(p *Pool, at Place) error { return p.Free(at+8*256, 100) },
		"free object":   func(p *Pool, at Place) error { return p.Wipe(at+7*5, 100) },
		"out of arena":  func(p *Pool, at Place) error { return p.Free(1<<34, 100) },
		"no such size":  func(p *Pool, at Place) error { return p.Free(at, 4000) },
		"negative size": func(p *Pool, at Place) error { return p.Free(at, -1) },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, 2, 1, 10)
			r.store(0, 1, 100) // class 112: 7 granules
			if err := free(r.pool, r.slots[1].place); !errors.Is(err, ErrCorrupt) {
				t.Errorf("%v, want ErrCorrupt", err)
			}
			r.check()
		})
	}
}

func TestClasses(t *testing.T) {
	r := newRig(t, 8, 2, 8000)
	for i := range uint32(6000) {
		r.store(int(i%2), i, 64+int(i%3)*1000)
	}
	for i := uint32(0); i < 6000; i += 3 {
		if i%4 != 0 {
			r.free(i)
		}
	}
	r.store(0, 7000, PageSize)
	rows := r.pool.Classes()
	total, st := Total(rows), r.pool.Stats()
	if total.Used != st.Objects || total.Pages != st.Pages {
		t.Errorf("total %+v, stats %+v", total, st)
	}
	if len(rows) != 123 || rows[122].Index != 254 || rows[122].Size != 4096 || rows[122].Groups[10] != 1 {
		t.Errorf("%d rows, the last %+v", len(rows), rows[len(rows)-1])
	}
	zspages := int64(0)
	for _, row := range rows {
		n := int64(0)
		for _, g := range row.Groups {
			n += g
		}
		if n*int64(row.PerZspage) != row.Pages {
			t.Errorf("class %d: %d zspages of %d pages are not %d pages", row.Size, n, row.PerZspage, row.Pages)
		}
		if free := row.Allocated - row.Used; free < 0 || row.Freeable > row.Pages {
			t.Errorf("class %+v", row)
		}
		zspages += n
	}
	if zspages == 0 || total.Freeable == 0 {
		t.Errorf("total %+v", total)
	}
	r.check()
}

func TestNothingAllocates(t *testing.T) {
	if invariants.Enabled {
		t.Skip("needs a build without the race detector and the invariants, which allocate")
	}
	r := newRig(t, 8, 2, 4000)
	rng := rand.New(rand.NewPCG(3, 3))
	for i := range uint32(3000) {
		r.store(int(i%2), i, sizes(rng))
	}
	r.maintain()
	data := make([]byte, PageSize)
	for _, n := range []int{30, 1400, 3600, PageSize} {
		got := testing.AllocsPerRun(1000, func() {
			pl, err := r.pool.Put(0, 3999, 7, data[:n])
			if err != nil {
				t.Fatal(err)
			}
			if _, err := r.pool.Get(pl, 3999, 7, n); err != nil {
				t.Fatal(err)
			}
			if err := r.pool.Free(pl, n); err != nil {
				t.Fatal(err)
			}
		})
		if got != 0 {
			t.Errorf("%d bytes: %v allocations", n, got)
		}
	}
	r.account.limit.Store(0)
	if got := testing.AllocsPerRun(100, func() {
		if _, err := r.pool.Put(0, 3999, 7, data); !errors.Is(err, ErrLimit) {
			t.Fatal(err)
		}
	}); got != 0 {
		t.Errorf("a refusal: %v allocations", got)
	}
	r.check()
}

// A million objects are nothing to the Go heap.
func TestOffTheHeap(t *testing.T) {
	const objects = 1_000_000
	size := int64(160) << 20
	arena, side := window(t, size), window(t, SideBytes(size))
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	data := make([]byte, 100)
	before := heap()
	p, err := New(Config{Arena: arena, Side: side, ArenaBytes: size, Geometry: geometry(t, 8), Slabs: 2,
		ReserveLow: 1 << 20, ReserveHigh: 4 << 20})
	if err != nil {
		t.Fatal(err)
	}
	if p.table.runStore.private == nil {
		before = heap() // a build with checks keeps small tables on the heap
	}
	for i := range uint32(objects) {
		for {
			if _, err = p.Put(int(i%2), i, i, data); !errors.Is(err, ErrNoRoom) {
				break
			}
			if _, err := p.Maintain(); err != nil {
				t.Fatal(err)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	after := heap()
	if got := p.Stats().Objects; got != objects {
		t.Errorf("%d objects", got)
	}
	grown := int64(after) - int64(before)
	if grown > 1<<20 {
		t.Errorf("a million objects and their pool add %d bytes to the Go heap", grown)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
}
