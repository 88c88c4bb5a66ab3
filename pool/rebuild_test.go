package pool

import (
	"errors"
	"math/rand/v2"
	"testing"
)

// next makes the rig's pool that of the next generation: only shared memory
// and the owners' words survive.
func (r *rig) next() error {
	r.pool = r.fresh()
	err := r.pool.Rebuild(r.walk)
	r.account.pages.Store(r.pool.Stats().Pages)
	return err
}

// scribble makes nonsense of all descriptors that the one before left in
// shared memory, and gives their number of bytes.
func (r *rig) scribble() (n int64) {
	return r.eachScratch(func(b []byte) {
		for i := range b {
			b[i] = 0xb5
		}
	})
}

// scratch is how many bytes of shared memory descriptors take.
func (r *rig) scratch() int64 { return r.eachScratch(func([]byte) {}) }

func (r *rig) eachScratch(do func([]byte)) (n int64) {
	if r.cfg.Scratch == nil {
		return 0
	}
	if err := r.cfg.Scratch.Data(func(off, size int64) bool {
		do(r.cfg.Scratch.Bytes(off, size))
		n += size
		return true
	}); err != nil {
		r.t.Fatal(err)
	}
	return n
}

func TestRebuild(t *testing.T) {
	for _, options := range [][]option{nil, {onShm}, {onShm, onScratch}} {
		r := newRig(t, 8, 2, 6000, options...)
		rng := rand.New(rand.NewPCG(5, 5))
		for i := range uint32(6000) {
			r.store(int(i%2), i, sizes(rng))
			if i%3 == 0 {
				r.free(uint32(rng.IntN(6000)))
			}
		}
		r.maintain()
		before, scratch := r.pool.Stats(), r.scribble()
		if err := r.next(); err != nil {
			t.Fatal(err)
		}
		r.check()
		if now := r.scratch(); now > scratch {
			t.Errorf("descriptors took %d bytes and now take %d: the next generation may have no memory for more", scratch, now)
		}
		after := r.pool.Stats()
		before.Commits, before.Punches = 0, 0 // events are not derived
		if before != after {
			t.Errorf("from %+v\nto %+v", before, after)
		}
		for i := range uint32(6000) {
			r.store(int(i%2), i, sizes(rng))
		}
		r.check()
	}
}

// Damaged words are named, and do no harm to the others.
func TestRebuildLeavesOutDamage(t *testing.T) {
	r := newRig(t, 4, 2, 1000)
	rng := rand.New(rand.NewPCG(6, 6))
	for i := range uint32(1000) {
		r.store(int(i%2), i, sizes(rng))
	}
	r.maintain()
	victim := r.slots[500].place
	bad := []Object{
		{1, 1 << 40, 100},                    // beyond the arena
		{2, ^Place(0), PageSize},             // far beyond
		{3, victim, 0},                       // no size
		{4, victim, 3700},                    // a size that no class stores
		{5, victim, -1},                      //
		{6, victim + 1, PageSize},            // a huge page that is not on a page
		{7, victim, r.slots[500].size},       // a place that another owns
		{8, 4*ChunkSize/granule - 256, 1000}, // void, and across the end
		{9, ChunkSize/granule - 1, 100},      // across chunks
	}
	// The damaged ones come first: none may claim the pages of a right one.
	r.pool = r.fresh()
	err := r.pool.Rebuild(func(yield func(Object) bool) {
		for _, o := range bad {
			if o.Owner != 7 && !yield(o) {
				return
			}
		}
		r.walk(yield)
		yield(bad[6])
	})
	var damage *Damage
	if !errors.As(err, &damage) || !errors.Is(err, ErrCorrupt) {
		t.Fatalf("rebuild: %v", err)
	}
	if len(damage.Objects) != len(bad) {
		t.Errorf("%d damaged objects, want %d: %v", len(damage.Objects), len(bad), damage.Objects)
	}
	r.account.pages.Store(r.pool.Stats().Pages)
	r.check()
}

// Of three words for one object the first is refused, since its zspage is not
// made yet and the header names another, and the second taken unseen: it is the
// second that has to make room for the third, whom the header names.
func TestRebuildContestsTheHolder(t *testing.T) {
	r := newRig(t, 1, 1, 3)
	for i := range uint32(2) {
		r.store(0, i, 1000)
	}
	right, neighbour := &r.slots[0], &r.slots[1]
	words := []Object{
		{7, right.place, right.size - 2},
		{1, neighbour.place, neighbour.size},
		{8, right.place, right.size - 1},
		{0, right.place, right.size},
	}
	r.pool = r.fresh()
	err := r.pool.Rebuild(func(yield func(Object) bool) {
		for _, o := range words {
			if !yield(o) {
				return
			}
		}
	})
	var damage *Damage
	if !errors.As(err, &damage) || len(damage.Objects) != 2 || damage.Objects[0] != words[0] || damage.Objects[1] != words[2] {
		t.Errorf("rebuild: %+v, want %v", err, []Object{words[0], words[2]})
	}
	r.account.pages.Store(r.pool.Stats().Pages)
	r.check()
}

func TestCheckFindsDamage(t *testing.T) {
	for name, harm := range map[string]func(r *rig){
		"owner":        func(r *rig) { r.arena.buf[r.slots[3].place*granule] ^= 1 },
		"lost word":    func(r *rig) { r.slots[3].size = 0 },
		"two words":    func(r *rig) { r.slots[3].place, r.slots[3].size = r.slots[4].place, r.slots[4].size },
		"freed object": func(r *rig) { _ = r.pool.Free(r.slots[3].place, r.slots[3].size) },
		"count":        func(r *rig) { r.pool.slabs[0].objects++ },
		"bytes":        func(r *rig) { r.pool.slabs[0].bytes++ },
		"list":         func(r *rig) { r.pool.slabs[0].classes[20].linked++ },
		"descriptor":   func(r *rig) { r.pool.table.runs[r.slots[3].place/256].class++ },
		"bitmap":       func(r *rig) { r.pool.table.bits[r.slots[3].place/256*2] ^= 1 },
		"used page":    func(r *rig) { r.pool.arena.chunks[0].used[7] ^= 1 << 63 },
		"sum":          func(r *rig) { r.pool.arena.free++ },
	} {
		r := newRig(t, 2, 1, 10)
		for i := range uint32(10) {
			r.store(0, i, 1000)
		}
		r.check()
		harm(r)
		if err := r.pool.Check(r.walk); err == nil {
			t.Errorf("%s: not found", name)
		}
	}
}

// FuzzRebuild gives Rebuild words that are damaged at will. Whatever they say,
// it does not panic, what it leaves out and what it takes are all there is, and
// the pool works on.
func FuzzRebuild(f *testing.F) {
	f.Add(uint64(1), []byte{})
	f.Add(uint64(2), []byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10})
	f.Add(uint64(3), []byte("place, size, owner; bit by bit, byte by byte, and whole words too"))
	f.Fuzz(func(t *testing.T, start uint64, damage []byte) {
		r := newRig(t, 2, 2, 300)
		rng := rand.New(rand.NewPCG(start, 0))
		for i := range uint32(250) {
			r.store(int(i%2), i, sizes(rng))
		}
		var words []Object
		r.walk(func(o Object) bool { words = append(words, o); return true })
		for ; len(damage) >= 4; damage = damage[4:] {
			o := &words[int(damage[0])%len(words)]
			switch damage[1] % 8 {
			case 0:
				o.Place ^= 1 << (damage[2] % 64)
			case 1:
				o.Size ^= 1 << (damage[2] % 13)
			case 2:
				o.Owner ^= 1 << (damage[2] % 32)
			case 3:
				o.Place = Place(damage[2])<<8 | Place(damage[3])
			case 4:
				o.Size = int(damage[2])<<4 | int(damage[3])
			case 5:
				*o = words[int(damage[2])%len(words)]
			case 6:
				r.arena.buf[int(damage[2])<<12|int(damage[3])<<4] ^= 0x55
			case 7:
				page := int(damage[2]) * PageSize
				if err := r.arena.Punch(int64(page), PageSize); err != nil {
					t.Fatal(err)
				}
			}
		}
		r.pool = r.fresh()
		err := r.pool.Rebuild(func(yield func(Object) bool) {
			for _, o := range words {
				if !yield(o) {
					return
				}
			}
		})
		r.account.pages.Store(r.pool.Stats().Pages)
		left := map[Object]int{}
		var bad *Damage
		if errors.As(err, &bad) {
			for _, o := range bad.Objects {
				left[o]++
			}
		} else if err != nil {
			t.Fatal(err)
		}
		taken := words[:0]
		for _, o := range words {
			if left[o] > 0 {
				left[o]--
				continue
			}
			taken = append(taken, o)
		}
		if got := r.pool.Stats().Objects; got != int64(len(taken)) {
			t.Fatalf("%d objects, but %d words were taken", got, len(taken))
		}
		for _, o := range taken {
			if err := r.pool.Free(o.Place, o.Size); err != nil {
				t.Fatal(err)
			}
		}
		if err := r.pool.Check(func(func(Object) bool) {}); err != nil {
			t.Fatal(err)
		}
		r.maintain()
	})
}
