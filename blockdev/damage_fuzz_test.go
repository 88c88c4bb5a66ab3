package blockdev

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/zramfs/zramfs/internal/invariants"
)

// areas are what of a region can be damaged.
func (d *disk) areas() []span {
	n := int64(d.table.slots())
	return []span{
		{d.layout.words.off, n * 8},
		{d.layout.elements.off, n * 8},
		{d.layout.side.off, 1 << 10},
		{d.layout.arena.off, 128 << 10},
		{d.layout.heads.off, int64(d.layout.frames) * 8},
		{d.layout.staging.off, int64(d.layout.frames) * PageSize},
		{d.layout.atimes.off, n * 4},
		{lanesAt, 512},
		{keptAt, 512},
		{d.layout.presence.off, 8},
		{paramsAt, 512},
		{0, 64},
	}
}

// The areas from these on are damaged only between two generations: nobody
// reads the header again, and a presence bit that is lost under a running worker
// is for its Check alone to find.
const (
	areaPresence = 9
	areaParams   = 10
)

// damage is one thing that goes wrong, made of four bytes.
type damage [4]byte

// forged: a slot's word is changed, and its check made right again.
func (g damage) forged() bool { return g[0]%16 >= 12 }

func (g damage) area() int { return int(g[0] % 16) }

func (g damage) at(n int64) int64 { return (int64(g[1]) | int64(g[2])<<8) * 5 % n }

// do damages a region, and says which slot's word it was, -1 if none.
func (g damage) do(d *disk) (slot int) {
	n := int64(d.table.slots())
	if g.forged() {
		s := g.at(n)
		if w := word(d.table.words[s]); w != 0 && g[3] != 0 {
			d.table.words[s] = uint64((w ^ word(g[3])<<(g[2]%49)).seal(uint64(s)))
			return int(s)
		}
		return -1
	}
	a := d.areas()[g.area()]
	if a.n == 0 {
		return -1
	}
	at := g.at(a.n)
	d.region.Bytes(a.off+at, 1)[0] ^= g[3]
	if g.area() == 0 {
		return int(at / 8)
	}
	return -1
}

// hidden says what damage to a slot's word nothing can see: all of it became
// zero, or it is that of a same-filled page with the pattern inline (or one whose
// element, or CRC on a backing device, was just being replaced) and passes its
// check, of which one in 256 does by chance.
func hidden(slot uint64, w word) bool {
	return w == 0 || w.sound(slot) && (w.state() == same && (w.size() == sameInline || w.size() == sameReplace) ||
		w.state() == backed && w.has(flagReplaced))
}

// hurtDisk damages a disk between two generations, or under a running one, and
// sees that there is no panic and no wrong page: each slot reads as what was
// written, or as an error, and Check reports it. Whatever is written afterwards
// is read back, whatever is discarded is empty, and the generation after that
// finds nothing wrong.
func hurtDisk(t *testing.T, seed uint64, live bool, harm []damage) {
	src := newSource(t)
	o := withBacking(quietOptions(t, 60*PageSize, 5), newMemBacking(64))
	d, pages := filledDisk(t, src, o, seed)
	d.writeBack(t)
	defer func() { src.Drop("zram0", d.region) }()
	defer forget(t, d)
	if _, err := d.pool.Compact(d); err != nil {
		t.Fatal(err)
	}
	hurt := map[int]bool{}
	header := false
	for _, g := range harm {
		if area := g.area(); live && area >= areaPresence && !g.forged() {
			continue
		} else if area >= areaParams && !g.forged() {
			header = true
		}
		if slot := g.do(d); slot >= 0 {
			hurt[slot] = true
		}
	}
	exempt := map[int]bool{}
	for slot := range hurt {
		exempt[slot] = hidden(uint64(slot), word(d.table.words[slot]))
	}
	next := d
	if !live {
		var err error
		if next, err = adoptDisk(d.region, o); err != nil {
			if header && (errors.Is(err, ErrCorrupt) || errors.Is(err, ErrUnsupported)) {
				return // refused as a whole
			}
			t.Fatal(err)
		}
		defer forget(t, next)
	}
	next.verify.total.Store(1000)
	for slot := uint64(0); slot < next.table.slots(); {
		slot = next.verifySome(slot)
	}
	bad := int64(0)
	got := make([]byte, PageSize)
	for slot, want := range pages {
		err := next.readPage(0, uint64(slot), 0, got)
		if err == errAway { // nobody but who reads it sees what is wrong with it
			if err := next.readAnywhere(uint64(slot), got); err == nil && !bytes.Equal(got, want) {
				t.Fatalf("slot %d reads from the device as something that was never written: word %#x", slot, next.table.words[slot])
			}
			continue
		}
		switch {
		case err != nil && !errors.Is(err, ErrCorrupt):
			t.Fatalf("slot %d: %v", slot, err)
		case err != nil:
			bad++
		case !bytes.Equal(got, want) && !exempt[slot]:
			t.Fatalf("slot %d reads as something that was never written: word %#x, hurt %v", slot, next.table.words[slot], hurt[slot])
		}
	}
	if n := next.verify.corrupt.Load(); n != bad {
		t.Errorf("%d pages cannot be read, the verification found %d", bad, n)
	}
	err := next.check()
	if bad > 0 && !errors.Is(err, ErrCorrupt) {
		t.Errorf("%d pages cannot be read, Check says %v", bad, err)
	}
	if r := next.checked.Load(); r.bad != bad || (r.err == nil) != (err == nil) {
		t.Errorf("%d pages cannot be read, the report is %s", bad, r.append(nil))
	}
	if n := sumLanes(next.lanes).corrupt; bad > 0 && n < bad && len(harm) < 2 {
		t.Errorf("%d pages cannot be read, %d are counted", bad, n)
	}
	heal(t, next, pages)
	last, err := adoptDisk(d.region, o)
	if header && err != nil {
		return // the header was not read by the first
	}
	if err != nil {
		t.Fatal(err)
	}
	defer forget(t, last)
	if err := last.check(); err != nil {
		t.Fatalf("Check of a healed disk: %v", err)
	}
}

// forget gives back what is derived of a disk without goroutines.
func forget(t *testing.T, d *disk) {
	if err := d.pool.Close(); err != nil {
		t.Error(err)
	}
}

// heal writes every page anew, or discards it.
func heal(t *testing.T, d *disk, pages [][]byte) {
	t.Helper()
	got := make([]byte, PageSize)
	for slot, want := range pages {
		r := &Request{Op: OpWrite, Off: int64(slot) * PageSize, Data: want}
		if slot%5 == 0 {
			r.Op, r.Len, want = OpDiscard, PageSize, make([]byte, PageSize)
		}
		answer := error(nil)
		r.Done = func(_ *Request, _ int, err error) { answer = err }
		_, parked, err := d.submit(r)
		if parked {
			d.keepUp()
			err = answer
		}
		if err != nil {
			t.Fatalf("slot %d cannot be written any more: %v", slot, err)
		}
		if err := d.readPage(0, uint64(slot), 0, got); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("slot %d after it was written anew: %v", slot, err)
		}
	}
	for stream := range d.lanes { // what was staged is compressed, or found damaged
		for more, err := true, error(nil); more; {
			if more, err = d.compressNext(stream); err == errRoom {
				d.keepUp()
			} else if err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := d.pool.Compact(d); err != nil {
		t.Fatal(err)
	}
	for slot, want := range pages {
		if slot%5 == 0 {
			want = make([]byte, PageSize)
		}
		if err := d.readPage(0, uint64(slot), 0, got); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("slot %d after everything was compressed: %v", slot, err)
		}
	}
}

func damages(b []byte) (all []damage) {
	for ; len(b) >= 4; b = b[4:] {
		all = append(all, damage(b[:4]))
	}
	return all
}

// FuzzRebuild damages what a generation finds, or has.
func FuzzRebuild(f *testing.F) {
	f.Add(uint64(1), false, []byte{0, 0, 0, 1})
	f.Add(uint64(2), false, []byte{8, 0, 255, 16, 9, 0, 0, 1})
	f.Add(uint64(3), true, bytes.Repeat([]byte{12, 2, 3, 7}, 20))
	f.Add(uint64(4), false, bytes.Repeat([]byte{13, 200, 9, 17, 3, 64, 12, 255}, 30))
	f.Fuzz(func(t *testing.T, seed uint64, live bool, harm []byte) { hurtDisk(t, seed, live, damages(harm)) })
}

// The same with harm from a generator: a little, some and much of it.
func TestRebuildOfDamage(t *testing.T) {
	rounds := 800
	if testing.Short() || invariants.Enabled {
		rounds = 100
	}
	for i := range rounds {
		r := rand.New(rand.NewPCG(uint64(i), 31))
		harm := make([]byte, 4*[]int{1, 2, 5, 40}[i%4])
		for j := range harm {
			harm[j] = byte(r.Uint32())
		}
		if i%3 == 0 { // mostly words that pass their check
			for j := 0; j < len(harm); j += 4 {
				harm[j] |= 12
			}
		}
		hurtDisk(t, uint64(i%7), i%2 == 1, damages(harm))
		if t.Failed() {
			t.Fatalf("round %d: %v", i, damages(harm))
		}
	}
}

// One flipped bit in each kind of object, under a running worker and between two:
// that page is an error, and no other.
func TestFlippedBitInEachKind(t *testing.T) {
	const size = 60 * PageSize
	for name, where := range map[string]func(d *disk, slot uint64, w word) (off int64, ok bool){
		"word": func(d *disk, slot uint64, w word) (int64, bool) {
			return d.layout.words.off + int64(slot)*8 + 3, w != 0
		},
		"stored, its bytes": func(d *disk, _ uint64, w word) (int64, bool) {
			return d.layout.arena.off + int64(w.place())*16 + 20, w.state() == stored
		},
		"stored, its owner": func(d *disk, _ uint64, w word) (int64, bool) {
			return d.layout.arena.off + int64(w.place())*16 + 1, w.state() == stored
		},
		"stored, its checksum": func(d *disk, _ uint64, w word) (int64, bool) {
			return d.layout.arena.off + int64(w.place())*16 + 6, w.state() == stored
		},
		"huge, its bytes": func(d *disk, _ uint64, w word) (int64, bool) {
			return d.layout.arena.off + int64(w.place())*16 + 4000, w.state() == huge
		},
		"huge, its owner": func(d *disk, _ uint64, w word) (int64, bool) {
			return d.layout.side.off + int64(w.place())/256*8 + 2, w.state() == huge
		},
		"huge, its checksum": func(d *disk, _ uint64, w word) (int64, bool) {
			return d.layout.side.off + int64(w.place())/256*8 + 5, w.state() == huge
		},
		"staged, its bytes": func(d *disk, _ uint64, w word) (int64, bool) {
			return d.layout.staging.off + int64(w.place())*PageSize + 99, w.state() == staged
		},
		"staged, its owner": func(d *disk, _ uint64, w word) (int64, bool) {
			return d.layout.heads.off + int64(w.place())*8, w.state() == staged
		},
		"staged, its checksum": func(d *disk, _ uint64, w word) (int64, bool) {
			return d.layout.heads.off + int64(w.place())*8 + 7, w.state() == staged
		},
		"element": func(d *disk, slot uint64, w word) (int64, bool) {
			return d.layout.elements.off + int64(slot)*8 + 5, w.inTable()
		},
		"backed, its word": func(d *disk, slot uint64, w word) (int64, bool) {
			return d.layout.words.off + int64(slot)*8 + 3, w.state() == backed
		},
		"backed, its CRC": func(d *disk, slot uint64, w word) (int64, bool) {
			return d.layout.elements.off + int64(slot)*8 + 5, w.state() == backed
		},
	} {
		for _, live := range []bool{true, false} {
			src := newSource(t)
			o := withBacking(quietOptions(t, size, 5), newMemBacking(64))
			d, pages := filledDisk(t, src, o, 4)
			d.writeBack(t)
			flipped := -1
			for slot, w := range d.table.each {
				if off, ok := where(d, slot, w); ok {
					flipped = int(slot)
					d.region.Bytes(off, 1)[0] ^= 1 << (slot % 8)
					break
				}
			}
			if flipped < 0 {
				t.Fatalf("%s: the disk has none", name)
			}
			next := d
			if !live {
				var err error
				if next, err = adoptDisk(d.region, o); err != nil {
					t.Fatal(err)
				}
			}
			got := make([]byte, PageSize)
			for slot, want := range pages {
				err := next.readAnywhere(uint64(slot), got)
				if slot == flipped {
					if !errors.Is(err, ErrCorrupt) {
						t.Errorf("%s, live %v: the flipped page gives %v", name, live, err)
					}
				} else if err != nil || !bytes.Equal(got, want) {
					t.Errorf("%s, live %v: slot %d suffers from slot %d: %v", name, live, slot, flipped, err)
				}
			}
			if err := next.check(); !errors.Is(err, ErrCorrupt) {
				t.Errorf("%s, live %v: Check says %v", name, live, err)
			}
			if n := sumLanes(next.lanes).corrupt; n == 0 {
				t.Errorf("%s, live %v: nothing is counted", name, live)
			}
			heal(t, next, pages)
			last, err := adoptDisk(d.region, o)
			if err == nil {
				err = last.check()
			}
			if err != nil {
				t.Errorf("%s, live %v: after it was written anew: %v", name, live, err)
			}
			src.Drop("zram0", d.region)
		}
	}
}

// A bit that the bitmap of the slot table has lost is set again by the next
// generation, and reported by this one's Check.
func TestLostPresence(t *testing.T) {
	src := newSource(t)
	o := quietOptions(t, 60*PageSize, 0)
	d, pages := filledDisk(t, src, o, 1)
	defer func() { src.Drop("zram0", d.region) }()
	d.table.presence[0] = 0
	if err := d.check(); !errors.Is(err, ErrCorrupt) {
		t.Errorf("Check says %v", err)
	}
	next, err := adoptDisk(d.region, o)
	if err != nil {
		t.Fatal(err)
	}
	if next.damaged != 1 {
		t.Errorf("%d were found damaged, want 1", next.damaged)
	}
	got := make([]byte, PageSize)
	for slot, want := range pages {
		if err := next.readPage(0, uint64(slot), 0, got); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("slot %d: %v", slot, err)
		}
	}
	if err := next.check(); err != nil {
		t.Error(err)
	}
}
