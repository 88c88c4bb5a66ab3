package blockdev

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/zramfs/zramfs/compress"
	"github.com/zramfs/zramfs/internal/invariants"
	"github.com/zramfs/zramfs/stable"
)

// seedAllocator is an allocator as zsmalloc was in Linux 4.7 as far as the bug
// goes: objects of one class lie side by side, and the free ones hold the link
// to the next free one in their own first bytes. A canary after each object
// tells whether somebody wrote past its end.
type seedAllocator struct {
	size int // of an object, canary apart
	mem  []byte
	free int // index of the first free object; -1: none
}

const canary = 0xC0FFEE00C0FFEE00

func newSeedAllocator(size, objects int) *seedAllocator {
	a := &seedAllocator{size: size, mem: make([]byte, objects*(size+8))}
	for i := range objects {
		next := i + 1
		if next == objects {
			next = -1
		}
		binary.LittleEndian.PutUint64(a.object(i), uint64(next))
		binary.LittleEndian.PutUint64(a.mem[i*(size+8)+size:], canary)
	}
	return a
}

// object gives all memory from an object's start: in C nothing stops a copy at
// its end.
func (a *seedAllocator) object(i int) []byte { return a.mem[i*(a.size+8):] }

func (a *seedAllocator) malloc() (int, bool) {
	if a.free < 0 {
		return 0, false
	}
	i := a.free
	a.free = int(int64(binary.LittleEndian.Uint64(a.object(i))))
	return i, true
}

// broken says whether a canary is dead or a free object's link leads nowhere.
func (a *seedAllocator) broken() bool {
	objects := len(a.mem) / (a.size + 8)
	for i := range objects {
		if binary.LittleEndian.Uint64(a.mem[i*(a.size+8)+a.size:]) != canary {
			return true
		}
	}
	for i, n := a.free, 0; i != -1; n++ {
		if i < 0 || i >= objects || n > objects {
			return true
		}
		i = int(int64(binary.LittleEndian.Uint64(a.object(i))))
	}
	return false
}

// twoPassWrite is zram_bvec_write as it was: compress, allocate for that
// length, and when the allocation had to wait, compress again and copy what
// the second pass gave into what the first pass had sized.
func twoPassWrite(st *compress.Stream, a *seedAllocator, page []byte, meanwhile func()) (overran bool, err error) {
	first, err := st.Compress(0, stable.Borrow(page, nil))
	if err != nil {
		return false, err
	}
	sized := len(first)
	i, ok := a.malloc()
	if !ok {
		return false, errors.New("the test allocator is full")
	}
	meanwhile() // the stream was given up while the allocation slept
	second, err := st.Compress(0, stable.Borrow(page, nil))
	if err != nil && !errors.Is(err, compress.ErrIncompressible) {
		return false, err
	}
	if err != nil {
		second = page
	}
	copy(a.object(i), second)
	return len(second) > sized, nil
}

// The bug that this project starts from, as it happened: an owner that changes
// the page between the two passes destroys the allocator's free list.
func TestSeedBugAsItWas(t *testing.T) {
	set := compress.NewSet(1)
	if _, err := set.Add(params(t, "lz4")); err != nil {
		t.Fatal(err)
	}
	st := set.Stream(0)
	st.Lock()
	defer st.Unlock()

	page := make([]byte, PageSize)
	small, err := st.Compress(0, stable.Borrow(page, nil))
	if err != nil {
		t.Fatal(err)
	}
	a := newSeedAllocator(len(small), 64)
	if a.broken() {
		t.Fatal("the allocator is broken before anyone used it")
	}
	overran, err := twoPassWrite(st, a, page, func() {})
	if err != nil || overran || a.broken() {
		t.Fatalf("a page that keeps still: overran %v, broken %v, %v", overran, a.broken(), err)
	}
	overran, err = twoPassWrite(st, a, page, func() {
		for i := 0; i < PageSize; i += 8 {
			binary.LittleEndian.PutUint64(page[i:], rand.Uint64())
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if !overran || !a.broken() {
		t.Fatalf("a page that changes between the passes: overran %v, free list broken %v; the bug is not reproduced", overran, a.broken())
	}
}

// The same owner, which changes its page from compressible to random and back
// all the time, through zramfs: under each policy, with and without staging,
// nothing is overrun. Check, when the test ends, walks every object.
func TestSeedBugThroughZramfs(t *testing.T) {
	rounds := 1_000_000
	if testing.Short() || invariants.Enabled {
		rounds = 20_000
	}
	for _, p := range []stable.Policy{stable.Snapshot, stable.Wait, stable.Refuse} {
		t.Run(p.String(), func(t *testing.T) {
			cfg := testConfig(t)
			cfg.Policy, cfg.WriteBehind = p, 8
			d := newDevice(t, 8*PageSize, cfg)
			if err := store(d, "stable_stat", "16"); err != nil {
				t.Fatal(err)
			}
			r := rand.New(rand.NewPCG(1, uint64(p)))
			random := make([]byte, PageSize)
			for i := 0; i < PageSize; i += 8 {
				binary.LittleEndian.PutUint64(random[i:], r.Uint64())
			}
			page := make([]byte, PageSize)
			last := map[int64]uint64{}
			req := &Request{Op: OpWrite}
			for round := range rounds {
				slot := int64(r.IntN(8))
				if round%2 == 0 {
					clear(page)
				} else {
					copy(page, random)
				}
				binary.LittleEndian.PutUint64(page[64:], uint64(round)+1)
				req.Op, req.Data, req.Off, req.Stream = OpWrite, page, slot*PageSize, int(slot)%2
				switch _, err := d.Do(req); {
				case err == nil:
					last[slot] = uint64(round) + 1
				case p != stable.Refuse || !errors.Is(err, ErrRefused):
					t.Fatalf("round %d: %v", round, err)
				}
				// The owner goes on writing to its page the moment the write
				// is answered, while the stream may be at work.
				copy(page[2048:], random[:1024])
			}
			drain(t, d)
			for slot, round := range last {
				got := read(t, d, PageSize, slot*PageSize)
				if n := binary.LittleEndian.Uint64(got[64:]); n != round {
					t.Errorf("slot %d holds round %d, the last that was acknowledged is %d", slot, n, round)
				}
			}
			if c := stat(t, d, "caught"); c != "0" {
				t.Errorf("%s views changed while promised", c)
			}
		})
	}
}
