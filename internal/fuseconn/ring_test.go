package fuseconn

import (
	"bytes"
	"errors"
	"os"
	"runtime"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/zramfs/zramfs/internal/percpu"
	"github.com/zramfs/zramfs/internal/uring"
)

const ringSwitch = "/sys/module/fuse/parameters/enable_uring"

// startRing starts a server with transport ring. The kernel's switch is on
// until that has mounted; who else mounts then is offered a ring and does not
// ask for it.
func startRing(t *testing.T, mode string) *mounted {
	t.Helper()
	defer switchRing(t)()
	return start(t, "ring", mode)
}

// switchRing lets new mounts have rings, until the function that it gives.
func switchRing(t *testing.T) (back func()) {
	t.Helper()
	f, err := os.OpenFile(ringSwitch, os.O_RDWR, 0)
	if err != nil {
		t.Skipf("needs FUSE over io_uring (Linux 6.14) and root: %v", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil { // other tests do the same
		t.Fatal(err)
	}
	before := make([]byte, 1)
	if _, err := f.ReadAt(before, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("Y"), 0); err != nil {
		t.Skipf("needs FUSE over io_uring: %v", err)
	}
	return func() {
		if _, err := f.WriteAt(before, 0); err != nil {
			t.Error(err)
		}
		f.Close()
	}
}

func mountRing(mountpoint string, cfg Config) (*Ring, *Pump, error) {
	cpus, err := percpu.Allowed()
	if err != nil {
		return nil, nil, err
	}
	n, err := percpu.Possible()
	if err != nil {
		return nil, nil, err
	}
	readers, l := PlanRing(cpus, n, 4<<30)
	cfg.MaxBackground = l.MaxBackground(1)
	main, err := Mount(mountpoint, MountOptions{MaxRead: l.Payload})
	if err != nil {
		return nil, nil, err
	}
	clone, err := Clone(main)
	if err != nil {
		return nil, nil, err
	}
	mem, err := anonymous(l.Bytes(len(readers)))
	if err != nil {
		return nil, nil, err
	}
	r, err := NewRing(PerCPUConfig{
		Config: cfg, Main: main, Clones: []*os.File{clone}, CPUs: readers, Layout: l, Memory: mem,
	})
	if err != nil {
		return nil, nil, err
	}
	pump, err := NewPump(main, l, len(readers), mem)
	if err != nil {
		return nil, nil, err
	}
	if err := r.Init(); err != nil {
		return nil, nil, err
	}
	return r, pump, pump.Start()
}

// testLane is a lane over plain memory; the test is its pump.
type testLane struct {
	laneView
	mem memory
	l   Layout
	id  uint64
}

func newTestLane(t testing.TB) *testLane {
	t.Helper()
	_, l := PlanRing([]int{0}, 1, 4<<30)
	return newTestLaneOf(t, l)
}

func newTestLaneOf(t testing.TB, l Layout) *testLane {
	t.Helper()
	mem, err := anonymous(l.Bytes(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Munmap(mem) })
	return &testLane{laneView: viewLane(mem, l, 1, 0), mem: mem, l: l}
}

// worker makes the worker's side.
func (tl *testLane) worker(h Handler, poison ...uint64) *lane {
	c := newControl(newTree(), (&Config{MaxBackground: 64}).mountOptions(tl.l.Payload),
		tl.mem.Bytes(tl.l.buffers(1), tl.l.slots()), tl.mem.Bytes(tl.l.buffers(1)+tl.l.slots(), pageSize+int64(tl.l.Reply)),
		tl.l.releases(64), &before{poison: poison})
	return newLane(tl.laneView, 0, -1, tl.l.Ring.Depth, h, c)
}

// give puts a request in an entry, as the kernel and the pump would.
func (tl *testLane) give(i int, opcode uint32, node, off uint64, size int) (id uint64) {
	tl.id += 2
	e := &tl.entries[i]
	q := fuse.WriteIn{
		InHeader: fuse.InHeader{Length: uint32(rwInSize), Opcode: opcode, Unique: tl.id, NodeId: node},
		Offset:   off, Size: uint32(size),
	}
	e.payload = 0
	if opcode == opWrite {
		e.payload = uint32(size)
		q.Length += uint32(size)
	}
	b := unsafe.Slice((*byte)(unsafe.Pointer(&q)), rwInSize)
	copy(e.inOut[:], b[:inHeaderSize])
	copy(e.opIn[:], b[inHeaderSize:])
	e.given.Store(tl.id)
	tl.todo[0].Or(1 << i)
	return tl.id
}

func (tl *testLane) status(i int) (n int, errno syscall.Errno) {
	out := (*fuse.OutHeader)(unsafe.Pointer(&tl.entries[i].inOut))
	return int(tl.entries[i].payload), syscall.Errno(-out.Status)
}

func TestLaneDoesNotAllocate(t *testing.T) {
	tl := newTestLane(t)
	ln := tl.worker(newStore("plain"))
	for _, c := range []struct {
		name   string
		opcode uint32
		size   int
	}{{"read", opRead, 4096}, {"write", opWrite, 4096}, {"large write", opWrite, ringPayload}} {
		got := testing.AllocsPerRun(1000, func() {
			id := tl.give(3, c.opcode, diskNode, 8192, c.size)
			ln.serve()
			if tl.entries[3].done.Load() != id || tl.ready[0].Swap(0) != 1<<3 {
				t.Fatal("not answered")
			}
		})
		if got != 0 {
			t.Errorf("%s: %v allocations", c.name, got)
		}
	}
}

func TestLaneParkingDoesNotAllocate(t *testing.T) {
	l := &lastly{got: make([]*Request, 0, 64)}
	tl := newTestLane(t)
	ln := tl.worker(l)
	got := testing.AllocsPerRun(200, func() {
		for i := range tl.entries {
			tl.give(i, opWrite, diskNode, 0, 4096)
		}
		ln.serve()
		if len(l.got) != len(tl.entries)-1 { // the last one is told so
			t.Fatalf("%d requests parked in %d entries", len(l.got), len(tl.entries))
		}
		if _, errno := tl.status(len(tl.entries) - 1); errno != syscall.ENOSPC {
			t.Fatal(errno)
		}
		for _, r := range l.got {
			r.Reply(4096, 0)
		}
		l.got = l.got[:0]
		if tl.ready[0].Swap(0) != 1<<len(tl.entries)-1 {
			t.Fatal("not all are answered")
		}
	})
	if got != 0 {
		t.Errorf("%v allocations", got)
	}
}

// dying stops in the middle of a request, as a worker that is killed does.
type dying struct {
	*store
	seen []uint64
}

func (d *dying) Serve(r *Request) (int, bool, syscall.Errno) {
	d.seen = append(d.seen, r.unique)
	return 0, true, 0 // and never answers
}

// A worker dies with some requests answered and not committed, some begun, some
// not looked at. The next one does what is to do, once.
func TestLaneTakeover(t *testing.T) {
	tl := newTestLane(t)
	s := newStore("plain")
	first := tl.worker(s)
	answered := tl.give(0, opWrite, diskNode, 0, 4096)
	first.serve()
	tl.ready[0].Store(0) // it was not told any more
	copy(s.data, "newer")

	second := tl.worker(&dying{store: s})
	data := tl.entries[1].page[:4096]
	page(data, 4096, 1)
	begun := tl.give(1, opWrite, diskNode, 4096, 4096)
	killer := tl.give(2, opWrite, diskNode, 8192, 4096)
	second.serve()
	// It had written half of an answer over the data.
	clear(data[:writeOutSize])
	tl.entries[1].inOut = [128]byte{}
	tl.give(3, opRead, diskNode, 4096, 4096)
	tl.todo[0].Store(0) // it had seen that, and was gone

	if open := InFlight(tl.mem, 1, tl.l); !slices.Equal(open, []uint64{begun, killer}) {
		t.Errorf("open are %v, want %v", open, []uint64{begun, killer})
	}
	third := tl.worker(s, killer)
	for i := range tl.entries {
		third.take(i, third)
	}
	if string(s.data[:5]) != "newer" {
		t.Error("what was answered was done again")
	}
	want := make([]byte, 4096)
	page(want, 4096, 1)
	if !bytes.Equal(s.data[4096:8192], want) {
		t.Error("what was begun was not done again as it came")
	}
	if !bytes.Equal(tl.entries[3].page[:4096], want) {
		t.Error("what nobody had looked at was not done")
	}
	if _, errno := tl.status(2); errno != syscall.EIO {
		t.Errorf("a request that kills: %v", errno)
	}
	if tl.ready[0].Load() != 1<<4-1 || tl.entries[0].done.Load() != answered {
		t.Errorf("ready are %b", tl.ready[0].Load())
	}
	if c := third.count.stats(0); c.Resent != 2 || c.Poisoned != 1 || c.Requests != 2 {
		t.Errorf("%+v", c)
	}
}

// Workers begin at any moment of a pump's: no request is left lying.
func TestLaneBeginsAtAnyMoment(t *testing.T) {
	tl := newTestLane(t)
	s := newStore("null")
	for round := range 150 {
		ln := tl.worker(s)
		go ln.loop(func(error) {})
		for range round % 7 {
			runtime.Gosched()
		}
		for range 2 {
			id := tl.give(round%32, opRead, diskNode, 0, 4096)
			tl.turn.Store(turnWorker)
			uring.Wake(&tl.turn)
			deadline := time.Now().Add(10 * time.Second)
			for tl.turn.Load() == turnWorker || tl.entries[round%32].done.Load() != id {
				if time.Now().After(deadline) {
					t.Fatalf("round %d: a request was left lying", round)
				}
				runtime.Gosched()
			}
		}
		ln.end()
	}
}

// A worker that begins while the pump has the turn leaves what is to do alone: it
// would give back a turn that it is just being given.
func TestLaneWaitsForItsTurn(t *testing.T) {
	tl := newTestLane(t)
	ln := tl.worker(newStore("null"))
	tl.todo[0].Store(1 << 5)
	began := tl.late.Load()
	go ln.loop(func(error) {})
	for tl.late.Load() == began {
		runtime.Gosched()
	}
	time.Sleep(20 * time.Millisecond)
	if tl.todo[0].Load() != 1<<5 {
		t.Error("it has looked without its turn")
	}
	ln.end()
}

// Queues of CPUs that are not ours are served, too; what does not fit is refused.
// However many CPUs share the entries, a control request finds one, and a disk.
func TestPlanRing(t *testing.T) {
	for _, c := range []struct {
		cpus, possible int
		memory         int64
		depth          int
		ok             bool
	}{
		{1, 1, 4 << 30, 32, true}, {2, 2, 4 << 30, 32, true}, {2, 240, 4 << 30, 32, true}, {64, 64, 4 << 30, 8, true},
		{86, 86, 4 << 30, 5, true}, {128, 128, 4 << 30, 4, true}, {300, 300, 4 << 30, 2, true},
		{2, 2, 512 << 20, 32, true}, {11, 11, 512 << 20, 5, true}, {64, 64, 512 << 20, 2, true},
		{1, 250, 4 << 30, 32, false},
	} {
		cpus := make([]int, c.cpus)
		for i := range cpus {
			cpus[i] = i
		}
		_, l := PlanRing(cpus, c.possible, c.memory)
		if err := l.Ring.Check(); (err == nil) != c.ok || l.Ring.Depth != c.depth || !l.valid() {
			t.Errorf("%+v: %v, depth %d", c, err, l.Ring.Depth)
		}
		served := make(map[uint16]int)
		for i := range cpus {
			for _, q := range l.Ring.queues(i) {
				served[q]++
			}
		}
		if len(served) != c.possible {
			t.Errorf("%+v: %d queues have entries", c, len(served))
		}
		tl := newTestLaneOf(t, Layout{Payload: l.Payload, Spares: 1, Slots: l.Slots, Reply: l.Reply,
			Ring: RingLayout{CPUs: []int{0}, Queues: 1, Depth: l.Ring.Depth}})
		ln := tl.worker(newStore("null"))
		for i := range tl.entries {
			tl.give(i, opGetattr, fileNode, 0, 0)
		}
		ln.serve()
		refused, taken := int(ln.count.refused.Load()), int(ln.parked.Load())
		if most := max((l.Ring.Depth+1)/2, l.Ring.Depth-5); taken < 1 || taken > most || taken+refused != l.Ring.Depth {
			t.Errorf("%+v: %d control requests wait, %d are refused", c, taken, refused)
		}
	}
	for _, depth := range []int{-1, 0, 1} {
		l := RingLayout{CPUs: []int{0}, Queues: 1, Depth: depth}
		if err := l.Check(); !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("depth %d: %v", depth, err)
		}
	}
}

// A lane whose CPU has nothing to do takes what waits for another's thread, but
// for the last, and not before that has looked everywhere.
func TestLaneHelps(t *testing.T) {
	tl := newTestLane(t)
	s := newStore("plain")
	ln, other := tl.worker(s), newTestLane(t).worker(s)
	other.others = []*lane{ln}
	want := make([]byte, 4096)
	for i := range 5 {
		page(tl.entries[i].page[:4096], int64(i)*4096, 1)
		tl.give(i, opWrite, diskNode, uint64(i)*4096, 4096)
	}
	if other.help() {
		t.Fatal("it helped a thread that may be at any entry")
	}
	ln.scanned.Store(true)
	ln.asleep.Store(1)
	late := ln.late.Load()
	helped := 0
	for other.help() {
		helped++
	}
	if helped != 4 || tl.todo[0].Load() != 1 || tl.ready[0].Load() != 0b11110 {
		t.Errorf("%d taken, %b left, %b ready", helped, tl.todo[0].Load(), tl.ready[0].Load())
	}
	if ln.late.Load() == late || ln.parked.Load() != 0 {
		t.Errorf("the pump was not told, or %d seem parked", ln.parked.Load())
	}
	ln.serve()
	for i := range 5 {
		page(want, int64(i)*4096, 1)
		if !bytes.Equal(s.data[i*4096:][:4096], want) {
			t.Errorf("page %d was not written", i)
		}
	}
	if c := ln.count.stats(0); c.Requests != 5 || tl.ready[0].Load() != 0b11111 {
		t.Errorf("%d requests, %b ready", c.Requests, tl.ready[0].Load())
	}
}

// Two threads that come to an entry at once, one of them for a bit that was left
// of an earlier request, serve its request once.
func TestLaneTakesOnce(t *testing.T) {
	tl := newTestLane(t)
	s := &counting{store: newStore("null")}
	ln, other := tl.worker(s), newTestLane(t).worker(s)
	const rounds = 50000
	var start, end atomic.Int64
	go func() {
		for n := int64(1); n <= rounds; n++ {
			for start.Load() < n {
				runtime.Gosched()
			}
			ln.take(0, other)
			end.Add(1)
		}
	}()
	for n := int64(1); n <= rounds; n++ {
		id := tl.give(0, opRead, diskNode, 0, 4096)
		start.Store(n)
		ln.take(0, ln)
		for end.Load() < n {
			runtime.Gosched()
		}
		if tl.entries[0].done.Load() != id || ln.parked.Load() != 0 {
			t.Fatalf("round %d: not answered, or %d seem parked", n, ln.parked.Load())
		}
	}
	if served := s.served.Load(); served != rounds {
		t.Errorf("%d requests were served %d times", rounds, served)
	}
}

// counting counts what it serves.
type counting struct {
	*store
	served atomic.Int64
}

func (c *counting) Serve(r *Request) (int, bool, syscall.Errno) {
	c.served.Add(1)
	return c.store.Serve(r)
}
