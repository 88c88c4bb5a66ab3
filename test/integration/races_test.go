package integration

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// races does everything at once to a disk whose worker is killed again and
// again. Each slot has one writer, which numbers its operations; each page says
// which it is.
type races struct {
	t     *testing.T
	m     *mnt
	disk  *os.File
	pages []byte
	stop  atomic.Bool
	slots [raceSlots]struct{ begun, acknowledged atomic.Uint64 }

	done [4]atomic.Int64 // reads, writes, writes without room, stores
}

const (
	raceSlots   = 4096
	raceWriters = 4
)

// What is done beside the I/O: a random value of each is stored.
var raceStores = map[string][]string{
	"compact":             {"1"},
	"mem_limit":           {"0", "0", "64M", "4M", "1M"},
	"idle":                {"all", "0", "1"},
	"recompress":          {"type=idle", "type=huge", "type=idle threshold=1000", "max_pages=200"},
	"writeback":           {"type=idle", "type=huge", "page_indexes=0-999"},
	"zramfs/stable":       {"snapshot", "wait"},
	"zramfs/algorithm":    {"lz4", "zstd"},
	"zramfs/policy":       {"off", "memory", "latency"},
	"zramfs/check":        {"1"},
	"zramfs/scrub":        {"0", "100"},
	"zramfs/limit_policy": {"compact,recompress,wait=1ms", "compact,wait=20ms"},
	"zramfs/resize":       {"16M", "24M"},
}

// TestRacesKilled reads, writes, discards, compacts, recompresses, writes back,
// scrubs, checks, resizes, and moves limits up and down, while workers die by
// kill -9. A read gives what an operation left that was begun before the read
// ended, and nothing older than the last one acknowledged before it began.
func TestRacesKilled(t *testing.T) {
	need(t)
	needResend(t)
	m := mount(t, "--size", "1M", "--algorithm", "lz4", "--write-behind", "16")
	await(t, "reset", func() bool { return store(m.block("reset"), "1") == nil })
	m.set("comp_algorithm", "lz4")
	m.set("recomp_algorithm", "algo=zstd priority=1")
	backing := filepath.Join(scratch(t), "backing")
	if err := errors.Join(os.WriteFile(backing, nil, 0o600), os.Truncate(backing, raceSlots/2*pageSize)); err != nil {
		t.Fatal(err)
	}
	m.set("backing_dev", backing)
	m.set("disksize", "16M")
	r := &races{t: t, m: m, disk: open(t, m.disk(0), os.O_RDWR|unix.O_DIRECT), pages: corpus(t)}
	var all sync.WaitGroup
	for w := range raceWriters {
		in, out := aligned(t, pageSize), aligned(t, pageSize)
		all.Go(func() { r.write(w, out) })
		all.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(w), 13))
			for !r.stop.Load() {
				r.look(rng.IntN(raceSlots), in)
			}
		})
	}
	for name, values := range raceStores {
		if _, err := os.Stat(m.block(name)); err != nil {
			continue
		}
		all.Go(func() { r.store(name, values) })
	}
	k := newKiller(m)
	k.run(long(8, 500), []death{deaths()[0]})
	r.stop.Store(true)
	all.Wait()
	page := aligned(t, pageSize)
	for slot := 0; slot < raceSlots && !t.Failed(); slot++ {
		r.look(slot, page)
	}
	t.Logf("%d reads, %d writes, %d found no room, %d stores\nbd_stat %s%s", r.done[0].Load(), r.done[1].Load(), r.done[2].Load(), r.done[3].Load(),
		m.get("bd_stat"), m.get("zramfs/recompress_stat"))
	m.set("mem_limit", "0")
	await(t, "no request of the kernel waits", func() bool { return waiting(t, m.point) == 0 })
	m.check()
}

// fail says what is wrong and ends everything.
func (r *races) fail(format string, args ...any) {
	r.t.Errorf(format, args...)
	r.stop.Store(true)
}

// store stores random values to one attribute.
func (r *races) store(name string, values []string) {
	rng := rand.New(rand.NewPCG(uint64(len(name)), 3))
	for !r.stop.Load() {
		value := values[rng.IntN(len(values))]
		switch err := store(r.m.block(name), value); {
		case err == nil:
			r.done[3].Add(1)
		case errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENOSPC):
			// Another pass runs, a page is in use, a limit is reached, there is no backing device.
		default:
			r.fail("%s = %s: %v", name, value, err)
		}
		time.Sleep(time.Duration(rng.IntN(20)) * time.Millisecond)
	}
}

// write is the writer of every raceWriters-th slot.
func (r *races) write(w int, page []byte) {
	rng := rand.New(rand.NewPCG(uint64(w), 11))
	for !r.stop.Load() {
		slot := rng.IntN(raceSlots/raceWriters)*raceWriters + w
		s := &r.slots[slot]
		n := s.begun.Add(1)
		var err error
		switch n % 8 {
		case 0:
			err = unix.Fallocate(int(r.disk.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, int64(slot)*pageSize, pageSize)
		default:
			r.content(page, slot, n)
			_, err = r.disk.WriteAt(page, int64(slot)*pageSize)
		}
		switch {
		case err == nil:
			s.acknowledged.Store(n)
			r.done[1].Add(1)
		case errors.Is(err, unix.ENOSPC):
			r.done[2].Add(1)
		default:
			r.fail("operation %d on slot %d: %v", n, slot, err)
		}
	}
}

// content is what operation n leaves in a slot: same-filled, random, or real.
func (r *races) content(page []byte, slot int, n uint64) {
	head := make([]byte, 8)
	binary.LittleEndian.PutUint64(head, uint64(slot)<<48|n)
	switch n % 8 {
	case 1:
		copy(page, bytes.Repeat(head, pageSize/8))
		return
	case 2:
		rng := rand.NewPCG(uint64(slot), n)
		for i := 0; i < pageSize; i += 8 {
			binary.LittleEndian.PutUint64(page[i:], rng.Uint64())
		}
	default:
		copy(page, r.pages[(uint64(slot)*31+n)%8192*pageSize:][:pageSize])
	}
	copy(page, head)
	binary.LittleEndian.PutUint32(page[pageSize-4:], crc32.ChecksumIEEE(page[:pageSize-4]))
}

// look reads a slot and says whether it is what it may be.
func (r *races) look(slot int, page []byte) {
	s := &r.slots[slot]
	oldest := s.acknowledged.Load()
	if _, err := r.disk.ReadAt(page, int64(slot)*pageSize); err != nil {
		r.fail("read of slot %d: %v", slot, err)
		return
	}
	newest := s.begun.Load()
	r.done[0].Add(1)
	tag := binary.LittleEndian.Uint64(page)
	n := tag &^ (0xFFFF << 48)
	same := bytes.Equal(page[8:], page[:pageSize-8])
	ok := tag>>48 == uint64(slot) && oldest <= n && n <= newest
	switch {
	case tag == 0: // never written, or discarded
		ok = same && (oldest == 0 || newest/8*8 >= oldest)
	case n%8 == 1:
		ok = ok && same
	default:
		ok = ok && binary.LittleEndian.Uint32(page[pageSize-4:]) == crc32.ChecksumIEEE(page[:pageSize-4])
	}
	if !ok {
		r.fail("slot %d: operation %d of slot %d, whole or not; one from %d to %d was expected", slot, n, tag>>48, oldest, newest)
	}
}
