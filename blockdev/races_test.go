package blockdev

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/zramfs/zramfs/internal/invariants"
)

// races is a disk to which everything is done at once. Each slot has one
// writer, which numbers its operations; every kind of page says which it is, or
// at least that it is none of another slot.
type races struct {
	t     *testing.T
	g     *generations
	slots []raceSlot

	stop   atomic.Bool
	counts sync.Map // what was done -> *atomic.Int64
}

// raceSlot: an operation with number n is begun before it is asked for, and
// acknowledged after it was answered. One that fails is never acknowledged, and
// may have happened or not.
type raceSlot struct{ begun, acknowledged atomic.Uint64 }

const (
	raceSlots   = 512
	raceWriters = 4
)

// The last three bits of a number say what the operation does.
const (
	raceDiscard = 0
	raceSame    = 1
	raceHuge    = 2 // else a page of the corpus
)

// TestRaces writes, reads and discards while pages are compacted, recompressed,
// written back, scrubbed and checked, limits go up and down, settings change
// and the worker is killed. What must hold: a read gives what an operation left
// that was begun before the read ended, and nothing older than the last one
// that was acknowledged before it began.
func TestRaces(t *testing.T) {
	period := 2 * time.Second
	if invariants.Enabled {
		period = 4 * time.Second
	}
	if os.Getenv("ZRAMFS_LONG") == "1" {
		period = 3 * time.Minute
	}
	for _, frames := range []int{0, 8} {
		t.Run(fmt.Sprintf("write-behind=%d", frames), func(t *testing.T) {
			cfg := testConfig(t)
			cfg.WriteBehind = frames
			cfg.Backing = backings{"dev": newMemBacking(raceSlots / 2)}
			r := &races{t: t, g: newGenerations(t, 0, cfg), slots: make([]raceSlot, raceSlots)}
			r.setUp()
			r.run(period / 2)
			r.verify()
			r.g.end()
		})
	}
}

// setUp makes the disk, with all that one can be given beforehand.
func (r *races) setUp() {
	r.t.Helper()
	set(r.t, r.g.d, "recomp_algorithm=algo=zstd priority=1", "recomp_algorithm=algo=minlz priority=2", "backing_dev=dev")
	if err := r.g.d.SetSize(raceSlots * PageSize); err != nil {
		r.t.Fatal(err)
	}
}

// store stores to an attribute of the worker that serves now.
func (r *races) store(name, value string) error { return store(r.g.d, name, value) }

// chores are what is done beside the I/O: a random value of each is stored.
var chores = map[string][]string{
	"compact":              {"1"},
	"mem_limit":            {"0", "0", "1M", "512K", "300K", "100K"},
	"stable":               {"snapshot", "wait"},
	"stable_stat":          {"0", "1", "7"},
	"idle":                 {"all", "0", "1"},
	"recompress":           {"type=idle", "type=huge", "type=huge_idle", "type=idle threshold=1000", "max_pages=20 priority=2", "algo=minlz"},
	"check":                {"1", "strict"},
	"scrub":                {"0", "1", "1000"},
	"limit_policy":         {"compact,recompress,wait=1ms", "wait=0", "recompress,wait=5ms", ""},
	"algorithm":            {"lz4", "zstd", "minlz"},
	"policy":               {"off", "balanced", "memory", "latency"},
	"resize":               {"2M", "3M", "5M"},
	"writeback":            {"type=idle", "type=huge", "type=incompressible", "page_indexes=0-99"},
	"writeback_batch_size": {"1", "32"},
	"writeback_promote":    {"0", "1", "3"},
}

// views are what is looked at meanwhile.
var views = []string{"mm_stat", "io_stat", "bd_stat", "classes", "memory_stat", "integrity_stat", "stream_stat", "backing_stat", "limit_stat"}

// run does everything at once for a while.
func (r *races) run(period time.Duration) {
	var all sync.WaitGroup
	for w := range raceWriters {
		all.Go(func() { r.write(w) })
		all.Go(func() { r.read(uint64(w)) })
	}
	for _, a := range Attributes() {
		values := chores[a.Name]
		if values == nil || !a.Writable() {
			continue
		}
		all.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(len(a.Name)), 3))
			for !r.stop.Load() {
				value := values[rng.IntN(len(values))]
				r.g.mu.RLock()
				err := r.store(a.Name, value)
				r.g.mu.RUnlock()
				// Refused is refused: another pass runs, a page is in use, a limit is reached.
				if err != nil && !errors.Is(err, ErrAgain) && !errors.Is(err, ErrBusy) && !errors.Is(err, ErrInvalid) &&
					!errors.Is(err, ErrNoSpace) && !errors.Is(err, ErrRange) {
					r.t.Errorf("%s = %s: %v", a.Name, value, err)
				}
				if err == nil {
					r.count(a.Name)
				}
				time.Sleep(time.Duration(rng.IntN(2000)) * time.Microsecond)
			}
		})
	}
	all.Go(func() {
		for i := 0; !r.stop.Load(); i++ {
			r.g.mu.RLock()
			_ = show(r.t, r.g.d, views[i%len(views)])
			r.g.mu.RUnlock()
			time.Sleep(time.Millisecond)
		}
	})
	rng := rand.New(rand.NewPCG(1, 2))
	for end := time.Now().Add(period); time.Now().Before(end) && !r.t.Failed(); {
		time.Sleep(time.Duration(20+rng.IntN(200)) * time.Millisecond)
		r.g.kill(rng)
		r.count("kill")
	}
	r.stop.Store(true)
	all.Wait()
	r.counts.Range(func(name, n any) bool {
		r.t.Logf("%8d %s", n.(*atomic.Int64).Load(), name)
		return true
	})
}

func (r *races) count(name string) {
	n, _ := r.counts.LoadOrStore(name, new(atomic.Int64))
	n.(*atomic.Int64).Add(1)
}

// do has a request answered by the worker that serves now.
func (r *races) do(q *Request) error {
	r.g.mu.RLock()
	defer r.g.mu.RUnlock()
	_, err := r.g.d.Do(q)
	return err
}

// write is the writer of every raceWriters-th slot.
func (r *races) write(w int) {
	rng := rand.New(rand.NewPCG(uint64(w), 11))
	page := make([]byte, PageSize)
	for !r.stop.Load() {
		slot := rng.IntN(raceSlots/raceWriters)*raceWriters + w
		n := r.slots[slot].begun.Add(1)
		q := &Request{Op: OpWrite, Data: page, Off: int64(slot) * PageSize, Stream: w % 2}
		if n%8 == raceDiscard {
			q = &Request{Op: OpDiscard, Off: int64(slot) * PageSize, Len: PageSize, Stream: w % 2}
		} else {
			racePage(r.t, page, uint64(slot), n)
		}
		err := r.do(q)
		switch {
		case err == nil:
			r.slots[slot].acknowledged.Store(n)
			r.count("write")
		case errors.Is(err, ErrNoSpace): // the limit is low just now
			r.count("write that found no space")
		default:
			r.t.Errorf("operation %d on slot %d: %v", n, slot, err)
			return
		}
	}
}

// racePage is what operation n leaves in a slot.
func racePage(tb testing.TB, page []byte, slot, n uint64) {
	switch n % 8 {
	case raceSame:
		fill(page, slot<<48|n, 0)
		return
	case raceHuge:
		rng := rand.New(rand.NewPCG(slot, n))
		for i := 0; i < PageSize; i += 8 {
			binary.LittleEndian.PutUint64(page[i:], rng.Uint64())
		}
	default:
		copy(page, stamped(tb, n*raceSlots+slot))
	}
	binary.LittleEndian.PutUint64(page, slot<<48|n)
	binary.LittleEndian.PutUint32(page[PageSize-4:], crc32.ChecksumIEEE(page[:PageSize-4]))
}

// read looks at random slots.
func (r *races) read(seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 13))
	page := make([]byte, PageSize)
	for !r.stop.Load() {
		r.look(rng.IntN(raceSlots), page)
		r.count("read")
	}
}

// look reads a slot, and says whether it is what it may be.
func (r *races) look(slot int, page []byte) {
	s := &r.slots[slot]
	oldest := s.acknowledged.Load()
	if err := r.do(&Request{Op: OpRead, Data: page, Off: int64(slot) * PageSize, Stream: slot % 2}); err != nil {
		r.t.Errorf("read of slot %d: %v", slot, err)
		r.stop.Store(true)
		return
	}
	newest := s.begun.Load()
	tag := binary.LittleEndian.Uint64(page)
	n := tag &^ (0xFFFF << 48)
	ok := tag>>48 == uint64(slot) && oldest <= n && n <= newest
	switch {
	case tag == 0: // never written, or discarded
		_, same := sameFilled(page)
		ok = same && (oldest == 0 || newest/8*8 >= oldest)
	case !ok:
	case n%8 == raceSame:
		element, same := sameFilled(page)
		ok = same && element == tag
	default:
		ok = binary.LittleEndian.Uint32(page[PageSize-4:]) == crc32.ChecksumIEEE(page[:PageSize-4])
	}
	if !ok {
		r.t.Errorf("slot %d: operation %d of slot %d, whole or not; between %d and %d was expected", slot, n, tag>>48, oldest, newest)
		r.stop.Store(true)
	}
}

// verify looks at everything once more, without any limit and at rest.
func (r *races) verify() {
	page := make([]byte, PageSize)
	for slot := 0; slot < raceSlots && !r.t.Failed(); slot++ {
		r.look(slot, page)
	}
	if k := r.g.d.disk.Load(); k != nil && show(r.t, r.g.d, "integrity_stat") == "" {
		r.t.Error("integrity_stat is empty")
	}
	if n := r.g.d.sums().corrupt; n != 0 {
		r.t.Errorf("%d pages were found corrupt", n)
	}
}
