package blockdev

import (
	"sync/atomic"
	"unsafe"

	"github.com/zramfs/zramfs/internal/invariants"
	"github.com/zramfs/zramfs/internal/shm"
	"github.com/zramfs/zramfs/stable"
)

// lane holds one stream's share of the counters, alone on its cache lines and
// in shared memory, so that events outlive a worker. Gauges are signed shares:
// a page stored by one stream and freed by another leaves +1 and -1; only the
// sum over all lanes means something. A new generation recounts the gauges
// from the slot table and keeps the events, of which a replayed request may
// count twice.
type lane struct {
	// Gauges: equal the slot table's sums at any quiet moment.
	pages  atomic.Int64 // slots that are not empty
	bytes  atomic.Int64 // stored bytes; a huge page counts 4096, a same one 0
	same   atomic.Int64
	huge   atomic.Int64
	staged atomic.Int64

	// Objects that were put and not freed. Right after a death there may be more
	// than the words name: those were about to be published, or to be freed.
	objects atomic.Int64

	backed atomic.Int64 // slots whose page is on the backing device

	// Events since the disk was initialised.
	reads, writes             atomic.Int64 // pages
	discards                  atomic.Int64 // whole pages discarded or zeroed: notify_free
	failedReads, failedWrites atomic.Int64 // requests
	hugeSince                 atomic.Int64
	corrupt                   atomic.Int64 // pages whose word, object or CRC was wrong
	missFree                  atomic.Int64 // always 0: no free is ever missed
	parked                    atomic.Int64 // requests that had to wait, but for the end of a check

	_ [256 - 16*8]byte
}

// lanesOf casts the header's lane area.
func lanesOf(r *shm.Region, n int) []lane {
	return unsafe.Slice((*lane)(unsafe.Add(r.Base(), lanesAt)), n)
}

// lanesSpan is where n lanes lie, in whole pages.
func lanesSpan(n int) span {
	return span{lanesAt, roundUp(int64(n)*int64(unsafe.Sizeof(lane{})), PageSize)}
}

// kept is what else of a disk outlives a worker: counters that no stream owns.
type kept struct {
	stable    stable.Stats // with the audit rate
	max       atomic.Int64 // mem_used_max, pages
	compacted atomic.Int64 // pages_compacted
	lanes     atomic.Int64 // how many lanes were ever used
	pp        ppKept
}

// integrityAt is where in the page of kept its part for integrity lies.
const integrityAt = 3072

// keptOf casts the header's page for it.
func keptOf(r *shm.Region) *kept { return (*kept)(unsafe.Add(r.Base(), keptAt)) }

// foldLanes gives the first lane what lanes beyond n counted, when a new
// generation has fewer streams.
func foldLanes(r *shm.Region, k *kept, n int) {
	was := int(k.lanes.Load())
	lanes := lanesOf(r, max(n, min(was, maxLanes)))
	for i := n; i < len(lanes); i++ {
		for j, c := range lanes[i].events() {
			lanes[0].events()[j].Add(c.Swap(0))
		}
		lanes[0].objects.Add(lanes[i].objects.Swap(0))
	}
	k.lanes.Store(int64(n))
}

// events are the counters that are not recounted.
func (l *lane) events() [9]*atomic.Int64 {
	return [...]*atomic.Int64{&l.reads, &l.writes, &l.discards, &l.failedReads, &l.failedWrites,
		&l.hugeSince, &l.corrupt, &l.missFree, &l.parked}
}

// move counts a slot's change from one word to another.
func (l *lane) move(from, to word) {
	if from == 0 {
		count(&l.pages, 1)
	} else if to == 0 {
		count(&l.pages, -1)
	}
	if delta := heldBytes(to) - heldBytes(from); delta != 0 {
		count(&l.bytes, int64(delta))
	}
	if f, t := from.state(), to.state(); f != t {
		l.gauge(f, -1)
		l.gauge(t, +1)
	}
	if to.state() == huge {
		l.hugeSince.Add(1)
	}
}

// count moves a gauge.
func count(gauge *atomic.Int64, n int64) {
	invariants.CrashPoint("lane.count")
	gauge.Add(n)
}

func (l *lane) gauge(s state, n int64) {
	switch s {
	case same:
		count(&l.same, n)
	case huge:
		count(&l.huge, n)
	case staged:
		count(&l.staged, n)
	case backed:
		count(&l.backed, n)
	}
}

// heldBytes is what a slot adds to compr_data_size. A staged page counts as a
// huge one until it is compressed, one on the backing device as nothing.
func heldBytes(w word) int {
	switch w.state() {
	case stored:
		return w.size()
	case huge, staged:
		return PageSize
	}
	return 0
}

// sums is the total over all lanes.
type sums struct {
	pages, bytes, same, huge, staged, objects, backed int64

	reads, writes, discards, failedReads, failedWrites int64
	hugeSince, corrupt, missFree, parked               int64
}

func sumLanes(lanes []lane) (s sums) {
	for i := range lanes {
		l := &lanes[i]
		s.pages += l.pages.Load()
		s.bytes += l.bytes.Load()
		s.same += l.same.Load()
		s.huge += l.huge.Load()
		s.staged += l.staged.Load()
		s.objects += l.objects.Load()
		s.backed += l.backed.Load()
		s.reads += l.reads.Load()
		s.writes += l.writes.Load()
		s.discards += l.discards.Load()
		s.failedReads += l.failedReads.Load()
		s.failedWrites += l.failedWrites.Load()
		s.hugeSince += l.hugeSince.Load()
		s.corrupt += l.corrupt.Load()
		s.missFree += l.missFree.Load()
		s.parked += l.parked.Load()
	}
	return s
}

// recount sets the gauges to what the slot table holds, all in the first lane,
// each with one store: a worker may die in here, too.
func recount(lanes []lane, s sums) {
	for i := range lanes {
		for j, n := range [...]int64{s.pages, s.bytes, s.same, s.huge, s.staged, s.objects, s.backed} {
			if i > 0 {
				n = 0
			}
			invariants.CrashPoint("lane.recount")
			lanes[i].gauges()[j].Store(n)
		}
	}
}

func (l *lane) gauges() [7]*atomic.Int64 {
	return [...]*atomic.Int64{&l.pages, &l.bytes, &l.same, &l.huge, &l.staged, &l.objects, &l.backed}
}

// sum counts what the slot table holds.
func (t *table) sum() (s sums) {
	for slot, w := range t.each {
		s.count(w, slot, 1)
	}
	return s
}

// count counts a slot's word n times. A damaged one counts as a lost page.
func (s *sums) count(w word, slot uint64, n int64) {
	if w == 0 {
		return
	}
	s.pages += n
	if !w.sound(slot) {
		return
	}
	s.bytes += n * int64(heldBytes(w))
	switch w.state() {
	case same:
		s.same += n
	case stored:
		s.objects += n
	case huge:
		s.huge += n
		s.objects += n
	case staged:
		s.staged += n
	case backed:
		s.backed += n
	}
}
