package fuseconn

import (
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/zramfs/zramfs/internal/invariants"
	"github.com/zramfs/zramfs/internal/percpu"
)

// The memory of a ring, behind the buffers of the readers: for each lane a page
// that pump and worker talk through, then its entries, each a head page and
// Payload bytes.
//
// Both sides may be replaced at any moment, and no step of one depends on the
// other's having seen the one before. An entry tells by three ids which request
// lies in it and how far that is: given by the pump, begun and done by the
// worker. todo and ready only say where to look; a bit too many does no harm,
// and a worker that begins looks everywhere.

// RingLayout says which queues there are and who serves them. The zero layout
// is that of a transport without rings.
type RingLayout struct {
	CPUs   []int `json:"cpus,omitempty"`   // of each lane: a thread of the pump and one of the worker
	Queues int   `json:"queues,omitempty"` // of the kernel: one for each CPU that is possible
	Depth  int   `json:"depth,omitempty"`  // requests that can be open in a queue
}

const (
	ringDepth   = 32
	maxRing     = 512 // entries of all lanes' own queues
	smallRing   = 64  // on a small machine
	ringWords   = 8
	maxEntries  = ringWords * 64 // of a lane
	otherDepth  = 2              // of a queue whose CPU this process may not use, or that is not there
	savedAt     = 1024           // in the head page of an entry
	savedMax    = 2048
	recordAt    = 512
	ringPayload = 128 << 10
)

// PlanRing says on which of the CPUs to put lanes, when so many are possible,
// and how large the buffers are.
func PlanRing(cpus []int, possible int, memory int64) (readers []int, l Layout) {
	_, l = Plan([]int{-1}, memory)
	l.Payload, l.Spares = ringPayload, 1
	entries := maxRing
	if memory < smallMachine {
		entries = smallRing
	}
	l.Ring = RingLayout{CPUs: cpus, Queues: possible, Depth: max(2, min(ringDepth, entries/len(cpus)))}
	return []int{-1}, l
}

// queues lists the queue of each entry of a lane: first its own, then those of
// CPUs that no lane is on.
func (l *RingLayout) queues(lane int) (ids []uint16) {
	for range l.Depth {
		ids = append(ids, uint16(l.CPUs[lane]))
	}
	others := 0
	for q := range l.Queues {
		if slices.Contains(l.CPUs, q) {
			continue
		}
		if others%len(l.CPUs) == lane {
			for range otherDepth {
				ids = append(ids, uint16(q))
			}
		}
		others++
	}
	return ids
}

// Check refuses what does not fit, and queues in which a control request would
// never find room.
func (l *RingLayout) Check() error {
	if len(l.CPUs) > 0 && l.Depth <= controlRest(l.Depth)+1 {
		return fmt.Errorf("fuseconn: %d requests in a queue of a ring: %w", l.Depth, errors.ErrUnsupported)
	}
	for i, cpu := range l.CPUs {
		if n := len(l.queues(i)); n > maxEntries || cpu < 0 || cpu >= l.Queues {
			return fmt.Errorf("fuseconn: %d CPUs are possible and %d may be used: a ring serves up to %d requests a CPU: %w",
				l.Queues, len(l.CPUs), maxEntries, errors.ErrUnsupported)
		}
	}
	return nil
}

// lane is how many bytes a lane takes.
func (l Layout) lane(i int) int64 {
	return pageSize + int64(len(l.Ring.queues(i)))*l.buffer()
}

// ring is where the memory of a lane begins.
func (l Layout) ring(readers, lane int) int64 {
	off := (l.classic(readers) + pageSize - 1) &^ (pageSize - 1)
	for i := range lane {
		off += l.lane(i)
	}
	return off
}

// laneMem is the page of a lane.
type laneMem struct {
	// turn is a futex: the worker serves what is to do, or the pump talks to
	// the kernel.
	turn atomic.Uint32
	_    [percpu.CacheLine - 4]byte
	// late is a futex that wakes a pump which waits for the kernel; asleep says
	// that it does.
	late   atomic.Uint32
	asleep atomic.Uint32
	_      [percpu.CacheLine - 8]byte
	todo   [ringWords]atomic.Uint64 // bits of entries, set by the pump
	_      [percpu.CacheLine - 8*ringWords]byte
	ready  [ringWords]atomic.Uint64 // bits of entries, set by the worker
}

const (
	turnPump   = 0
	turnWorker = 1
)

// ringHead is struct fuse_uring_req_header: what the kernel writes and reads.
type ringHead struct {
	inOut   [128]byte // the header of the request, then of the reply
	opIn    [128]byte // the first argument
	_       uint64
	commit  uint64
	payload uint32
	_       uint32
	_       uint64
}

// ringRecord is ours.
type ringRecord struct {
	given atomic.Uint64 // the request that lies here; 0: none. Written by the pump
	begun atomic.Uint64 // of these a worker has kept what an answer overwrites; by the worker, as all below
	done  atomic.Uint64 // and these are answered
	at    uint32        // where in the head page the request begins
	n     uint32        // its bytes
	saved uint32        // bytes of its payload that are kept
}

// ringEntry is an entry in shared memory. Like the numbers of its requests it
// never changes.
type ringEntry struct {
	*ringHead
	*ringRecord
	head, page []byte
}

// laneView is a lane's memory, as either side sees it.
type laneView struct {
	*laneMem
	queue   []uint16
	entries []ringEntry
}

func viewLane(mem Memory, l Layout, readers, lane int) laneView {
	base := l.ring(readers, lane)
	v := laneView{
		laneMem: (*laneMem)(unsafe.Pointer(unsafe.SliceData(mem.Bytes(base, pageSize)))),
		queue:   l.Ring.queues(lane),
	}
	for i := range v.queue {
		b := mem.Bytes(base+pageSize+int64(i)*l.buffer(), l.buffer())
		v.entries = append(v.entries, ringEntry{
			ringHead:   (*ringHead)(unsafe.Pointer(&b[0])),
			ringRecord: (*ringRecord)(unsafe.Pointer(&b[recordAt])),
			head:       b[:pageSize:pageSize],
			page:       b[pageSize:],
		})
	}
	return v
}

// populate makes the pages of what is sure to be used: not those of queues
// without a lane.
func populateRing(mem Memory, l Layout, readers int) error {
	for i := range l.Ring.CPUs {
		if err := mem.Populate(l.ring(readers, i), pageSize+int64(l.Ring.Depth)*l.buffer()); err != nil {
			return fmt.Errorf("fuseconn: populate the ring: %w", err)
		}
	}
	return nil
}

// keep lays the request out as /dev/fuse would give it, and keeps what an
// answer overwrites. false: it is no request.
func (e *ringEntry) keep(disk func(h *fuse.InHeader) bool) bool {
	h := (*fuse.InHeader)(unsafe.Pointer(&e.inOut))
	first := int(h.Length) - inHeaderSize - int(e.payload)
	if first < 0 || first > len(e.opIn) || int(e.payload) > len(e.page) {
		return false
	}
	at, saved := pageSize-inHeaderSize-first, min(int(e.payload), savedMax)
	if disk(h) {
		at, saved = requestAt, min(int(e.payload), writeOutSize)
		first = min(first, rwInSize-inHeaderSize)
	}
	invariants.Copy("ring.keep", e.head[at:], e.inOut[:inHeaderSize])
	invariants.Copy("ring.keep.first", e.head[at+inHeaderSize:], e.opIn[:first])
	invariants.Copy("ring.keep.payload", e.head[savedAt:], e.page[:saved])
	invariants.CrashPoint("ring.keep.bytes")
	e.at = uint32(at)
	invariants.CrashPoint("ring.keep.at")
	e.n = h.Length
	invariants.CrashPoint("ring.keep.length")
	e.saved = uint32(saved)
	invariants.CrashPoint("ring.kept")
	return true
}

// restore puts back what the answer of a dead worker may have overwritten.
func (e *ringEntry) restore() {
	invariants.Copy("ring.restore", e.page, e.head[savedAt:][:e.saved])
	invariants.CrashPoint("ring.restored")
}

// request is the header of the request, which begins what /dev/fuse would have
// given.
func (e *ringEntry) request() *fuse.InHeader {
	return (*fuse.InHeader)(unsafe.Pointer(&e.head[e.at]))
}

// reply writes the reply's header. n bytes of reply are in page.
func (e *ringEntry) reply(id uint64, n int, errno int32) {
	invariants.CrashPoint("ring.reply")
	*(*fuse.OutHeader)(unsafe.Pointer(&e.inOut)) = fuse.OutHeader{Length: uint32(outHeaderSize + n), Status: -errno, Unique: id}
	invariants.CrashPoint("ring.reply.header")
	e.payload = uint32(n)
	invariants.CrashPoint("ring.reply.length")
	e.done.Store(id)
	invariants.CrashPoint("ring.done")
}

// bring notes a request that the kernel has put in an entry: the pump's.
func (v *laneView) bring(i int, id uint64) {
	invariants.CrashPoint("pump.bring")
	v.entries[i].given.Store(id)
	invariants.CrashPoint("pump.given")
	v.todo[i/64].Or(1 << (i % 64))
	invariants.CrashPoint("pump.brought")
}

// answered gives the bits of a word of entries that may be answered: the pump's.
func (v *laneView) answered(w int) (set uint64) {
	if v.ready[w].Load() == 0 {
		return 0
	}
	invariants.CrashPoint("pump.ready")
	set = v.ready[w].Swap(0)
	invariants.CrashPoint("pump.taken")
	return set
}

// clear takes a request out of its entry, to have it committed: the pump's. A bit
// may be there for nothing: a worker that takes over does not know what the one
// before has said.
func (v *laneView) clear(i int) (id uint64, ok bool) {
	if i >= len(v.entries) {
		return 0, false
	}
	e := &v.entries[i]
	if id = e.given.Load(); id == 0 || e.done.Load() != id {
		return 0, false
	}
	invariants.CrashPoint("pump.clear")
	e.given.Store(0)
	invariants.CrashPoint("pump.cleared")
	return id, true
}

// open lists the requests that a worker had begun and not answered.
func (v *laneView) open(ids []uint64) []uint64 {
	for i := range v.entries {
		e := &v.entries[i]
		if id := e.given.Load(); id != 0 && e.begun.Load() == id && e.done.Load() != id {
			ids = append(ids, id)
		}
	}
	return ids
}
