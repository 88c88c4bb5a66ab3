package keeper

import (
	"math/rand/v2"
	"testing"
)

// world is a machine that swaps: slots, a store, and data whose ratio changes.
type world struct {
	t       *testing.T
	plan    planner
	f       figures
	total   int
	enabled int
	used    int64 // slots in use
	bytes   []int32
	rng     *rand.Rand
	full    bool // a write found no room
}

func newWorld(t *testing.T, cap, size int64, segments int, seed uint64) *world {
	return &world{
		t: t, plan: planner{segment: size / int64(segments), cap: cap}, total: segments,
		f: figures{beat: 1, limit: cap}, rng: rand.New(rand.NewPCG(seed, 1)),
	}
}

func (w *world) slots() int64 { return int64(w.enabled) * (w.plan.segment - 1) }
func (w *world) free() int64  { return w.slots() - w.used }

// look is what the thread in the keeper does, and checks what it promises.
func (w *world) look() {
	w.f.beat++
	w.plan.see(&w.f, w.used)
	for w.enabled < w.total && w.plan.enable(&w.f, w.enabled, w.free()) {
		after, room := w.free()+w.plan.segment, w.plan.room(&w.f)
		safe := after <= room
		fits := float64(after) <= float64(room)*w.plan.ratio.seen(&w.f) && w.free() < w.plan.ahead()
		if w.enabled > 0 && !safe && !fits {
			w.t.Fatalf("segment %d enabled: %d free slots, room for %d pages, ratio %.2f",
				w.enabled, after, room, w.plan.ratio.seen(&w.f))
		}
		w.enabled++
	}
}

// write swaps one page out that compresses to bytes; false: no slot was free,
// which the kernel knows how to live with.
func (w *world) write(bytes int32) bool {
	if w.free() <= 0 {
		return false
	}
	w.f.compressed, w.f.stored = w.f.compressed+1, w.f.stored+int64(bytes)
	w.f.requests++
	if bytes == pageSize {
		w.f.huge++
	}
	if used := w.memory(int64(bytes)); used > w.f.limit {
		w.full = true
		return true
	} else {
		w.f.used = used
	}
	w.bytes = append(w.bytes, bytes)
	w.f.pages, w.f.bytes = w.f.pages+1, w.f.bytes+int64(bytes)
	w.used++
	return true
}

// drop frees a slot, chosen at random.
func (w *world) drop() {
	if len(w.bytes) == 0 {
		return
	}
	i := w.rng.IntN(len(w.bytes))
	bytes := w.bytes[i]
	w.bytes[i] = w.bytes[len(w.bytes)-1]
	w.bytes = w.bytes[:len(w.bytes)-1]
	w.f.pages, w.f.bytes, w.used = w.f.pages-1, w.f.bytes-int64(bytes), w.used-1
	if bytes == pageSize {
		w.f.huge--
	}
	w.f.used = w.memory(0)
}

// memory is how many pages everything takes, and so many bytes more: zspages
// are never quite full.
func (w *world) memory(more int64) int64 {
	return w.f.huge + (w.f.bytes+more-w.f.huge*pageSize)*33/32/pageSize
}

// TestSlotsRunOutFirst: with data of any constant ratio the slots run out
// before the store does, and what could have been stored by then is not much
// more than what was.
func TestSlotsRunOutFirst(t *testing.T) {
	const cap = 40 << 8 // 40 MiB
	for _, ratio := range []float64{1, 1.1, 1.5, 2, 2.75, 3} {
		w := newWorld(t, cap, cap*swapRatio, segmentsFor(cap*swapRatio*pageSize), 1)
		for i := 0; ; i++ {
			if i%64 == 0 {
				w.look()
			}
			if !w.write(int32(pageSize / ratio)) {
				break
			}
		}
		if w.full {
			t.Errorf("ratio %.2f: the store was full with %d slots free", ratio, w.free())
		}
		if w.f.used < cap*7/10 { // a segment is a fifth of the store
			t.Errorf("ratio %.2f: slots ran out with %d of %d pages used, %d of %d segments", ratio, w.f.used, cap, w.enabled, w.total)
		}
		t.Logf("ratio %.2f: %d of %d segments, %.2f of the store", ratio, w.enabled, w.total, float64(w.f.used)/cap)
	}
}

// TestEnablingKeepsItsPromise: whatever data come and go, nothing is enabled
// that does not fit at the ratio seen, and as long as the room allows it a
// segment's worth of slots is free. Data may stop compressing at any time:
// as long as all free slots fit even then, the store is never full.
func TestEnablingKeepsItsPromise(t *testing.T) {
	for seed := range uint64(60) {
		rng := rand.New(rand.NewPCG(seed, 2))
		cap := int64(1)<<(13+rng.IntN(3)) + rng.Int64N(1<<13)
		segments := 1 + rng.IntN(maxSegments)
		w := newWorld(t, cap, cap*(1+rng.Int64N(4)), segments, seed)
		exposed := false
		for range 60 { // spells of one kind of data
			ratio, growth := 1+rng.Float64()*4, rng.IntN(100)
			for i := range rng.IntN(int(cap)) {
				if i%32 == 0 {
					w.look()
					if ahead := w.plan.room(&w.f) >= 2*w.plan.segment; ahead && w.enabled < w.total && w.free() < w.plan.segment {
						t.Fatalf("seed %d: %d slots free although there is room for %d pages", seed, w.free(), w.plan.room(&w.f))
					}
				}
				if rng.IntN(100) < growth {
					w.write(int32(pageSize / (ratio * (0.8 + 0.4*rng.Float64()))))
				} else {
					w.drop()
				}
				// From here on a fall of the ratio could fill the store.
				exposed = exposed || w.enabled > 1 && w.free() > w.plan.room(&w.f)
			}
			if w.full && !exposed && w.enabled > 1 {
				t.Fatalf("seed %d: the store was full although everything fitted", seed)
			}
			if w.full {
				break
			}
		}
	}
}

// TestFastWriterIsNotStopped: a program that takes more than a segment from one
// beat to the next finds slots until the store is as full as a slow one makes
// it, though what the keeper sees is old by the time a segment is there.
func TestFastWriterIsNotStopped(t *testing.T) {
	const cap = 48 << 8 // 48 MiB
	slow := int64(0)
	for _, pace := range []int64{64, 512, 1024, 2048, 3072} { // pages in a beat
		w := newWorld(t, cap, cap*swapRatio, segmentsFor(cap*swapRatio*pageSize), 1)
		w.look()
		late := []int{w.enabled, w.enabled} // decided, and not there yet
		for stopped := false; !stopped; {
			w.look()
			decided := w.enabled
			w.enabled, late = late[0], append(late[1:], decided)
			for range pace {
				if stopped = !w.write(pageSize / 3); stopped {
					break
				}
			}
			w.enabled = decided
		}
		if w.full {
			t.Errorf("%d pages in a beat: the store was full", pace)
		}
		t.Logf("%d pages in a beat: %d of %d segments, %.2f of the store", pace, w.enabled, w.total, float64(w.f.used)/cap)
		if slow = max(slow, w.f.used); w.f.used < slow*9/10 {
			t.Errorf("%d pages in a beat: slots ran out with %d pages stored, %d at a slower pace", pace, w.f.used, slow)
		}
	}
}

// TestRatioForgetsThePast: data that compress badly are noticed long before
// they are a good part of what is stored, and a new worker's counters are not
// taken for a change.
func TestRatioForgetsThePast(t *testing.T) {
	const cap = 1 << 18
	w := newWorld(t, cap, cap*3, maxSegments, 1)
	for range 100_000 {
		w.look()
		w.write(pageSize / 3)
	}
	if r := w.plan.ratio.seen(&w.f); r < 2.6 || r > 3 {
		t.Errorf("the ratio is %.2f, with data of 3", r)
	}
	w.f.compressed, w.f.stored = 5, 5*pageSize // another worker
	w.look()
	if r := w.plan.ratio.seen(&w.f); r < 2.6 {
		t.Errorf("a new worker makes the ratio %.2f", r)
	}
	for range w.plan.segment {
		w.look()
		w.write(pageSize)
	}
	if r := w.plan.ratio.seen(&w.f); r > 1.3 {
		t.Errorf("after a segment's worth of random data the ratio is %.2f", r)
	}
	empty := figures{pages: 1 << 20, used: 0}
	if r := w.plan.ratio.seen(&empty); r != 1 {
		t.Errorf("pages that take nothing tell the ratio %.2f", r)
	}
}

func TestPlannerDoesNotAllocate(t *testing.T) {
	w := newWorld(t, 1<<16, 3<<16, maxSegments, 1)
	dog := watchdog{}
	if n := testing.AllocsPerRun(100, func() {
		w.f.beat++
		w.plan.see(&w.f, w.f.beat)
		w.plan.enable(&w.f, 3, 1000)
		dog.see(w.f.beat*1e6, &w.f, 1, 1)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
