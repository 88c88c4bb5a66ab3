//go:build crashpoints

package fuseconn

import (
	"fmt"
	"math/bits"
	"strings"
	"testing"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/zramfs/zramfs/internal/invariants"
)

// ringRig is a ring of two lanes over plain memory. The test is the kernel and the
// pump, which takes its steps by the same functions as Pump. All requests come to
// the first lane; the thread of the second helps.
type ringRig struct {
	w        *world
	layout   Layout
	mem      memory
	pump     laneView
	in       []*call // of each entry; nil: none
	lanes    []*lane
	control  *control
	patience bool // what is parked stays so while the next requests come
}

func newRingRig(t *testing.T, w *world) *ringRig {
	r := &ringRig{w: w, layout: Layout{Payload: 16 << 10, Spares: 1, Slots: 8, Reply: 8 << 10,
		Ring: RingLayout{CPUs: []int{0, 1}, Queues: 2, Depth: 16}}}
	var err error
	if r.mem, err = anonymous(r.layout.Bytes(1)); err != nil {
		t.Fatal(err)
	}
	r.pump = viewLane(r.mem, r.layout, 1, 0)
	r.in = make([]*call, len(r.pump.entries))
	r.pump.asleep.Store(1)
	return r
}

func (r *ringRig) start() {
	l := r.layout
	r.control = newControl(r.w, (&Config{MaxBackground: 64}).mountOptions(l.Payload), r.mem.Bytes(l.buffers(1), l.slots()),
		r.mem.Bytes(l.buffers(1)+l.slots(), pageSize+int64(l.Reply)), l.releases(64), &before{poison: r.w.poison})
	r.control.slow.start = func(f func()) { f() }
	r.lanes = nil
	for i := range 2 {
		r.lanes = append(r.lanes, newLane(viewLane(r.mem, l, 1, i), i, -1, l.Ring.Depth, r.w, r.control))
	}
	r.lanes[0].others, r.lanes[1].others = r.lanes[1:], r.lanes[:1]
	for _, ln := range r.lanes {
		ln.begin()
	}
}

// bring puts a request in an entry, as the kernel does, and has the pump tell.
func (r *ringRig) bring(c *call) {
	i := 0
	for r.in[i] != nil {
		i++
	}
	e := &r.pump.entries[i]
	m := c.message()
	e.inOut, e.opIn = [128]byte{}, [128]byte{}
	copy(e.inOut[:], m[:inHeaderSize])
	copy(e.opIn[:], c.args)
	copy(e.page, c.data)
	e.payload, e.ringHead.commit = uint32(len(c.data)), c.id
	c.sent, r.in[i] = true, c
	r.pump.bring(i, c.id)
}

// work has the worker do what there is to do, and the pump commit it.
func (r *ringRig) work() {
	r.lanes[1].help()
	r.lanes[0].serve()
	r.lanes[0].yield()
	controlAll(r.control)
	if !r.patience {
		r.w.release()
	}
	r.commit()
}

func (r *ringRig) serve(batch []*call) {
	for _, c := range batch {
		if !c.sent {
			r.bring(c)
		}
	}
	r.work()
}

// commit is the pump's, and the kernel takes the answers.
func (r *ringRig) commit() {
	for set := r.pump.answered(0); set != 0; set &= set - 1 {
		i := bits.TrailingZeros64(set)
		e := &r.pump.entries[i]
		id, ok := r.pump.clear(i)
		if !ok {
			continue
		}
		c := r.in[i]
		out := (*fuse.OutHeader)(unsafe.Pointer(&e.inOut))
		if c == nil || c.id != id || c.answered || out.Unique != id || out.Length != uint32(outHeaderSize)+e.payload {
			r.w.t.Errorf("entry %d is answered with %+v for %d, and has %+v", i, *out, id, c)
			continue
		}
		c.reply(out.Status, e.page[:e.payload])
		r.in[i] = nil
	}
}

func (r *ringRig) inFlight() []uint64 {
	for i, c := range r.in {
		if e := &r.pump.entries[i]; c != nil && e.done.Load() == c.id {
			c.replied = true
		}
	}
	return InFlight(r.mem, 1, r.layout)
}

func (r *ringRig) buried() {}

func (r *ringRig) rest() error {
	for i, e := range r.pump.entries {
		if e.given.Load() != 0 || r.in[i] != nil {
			return fmt.Errorf("entry %d has request %d", i, e.given.Load())
		}
	}
	parked, c := r.lanes[0].parked.Load(), r.control
	if parked != 0 || len(c.free) != r.layout.Slots-1 || len(c.todo)+len(c.releases)+len(c.slow.ended) != 0 {
		return fmt.Errorf("%d seem parked, %d free slots of %d, %d requests, %d RELEASEs and %d slow writes left",
			parked, len(c.free), r.layout.Slots-1, len(c.todo), len(c.releases), len(c.slow.ended))
	}
	return nil
}

// ringRigs makes one rig after another.
func ringRigs(t *testing.T) func(w *world) crashRig {
	var last *ringRig
	end := func() {
		if last != nil {
			_ = unix.Munmap(last.mem)
		}
	}
	t.Cleanup(end)
	return func(w *world) crashRig {
		end()
		last = newRingRig(t, w)
		return last
	}
}

// A worker on a ring dies at every store to the lanes' memory, and so does the next
// one while it looks through the entries. Each request is answered once, as if
// nobody had died, and done once.
func TestCrashRing(t *testing.T) {
	seen := crashEverywhere(t, 7, func() [][]*call { return crashCalls() }, ringRigs(t))
	mustHaveDied(t, seen, "ring.claim", "ring.claimed", "ring.keep", "ring.keep.first", "ring.keep.payload", "ring.keep.bytes",
		"ring.keep.at", "ring.keep.length", "ring.kept", "ring.begun", "ring.cut", "ring.cut.length", "ring.restore", "ring.restored",
		"ring.reply.size", "ring.reply", "ring.reply.header", "ring.reply.length", "ring.done", "ring.told", "ring.late", "ring.woken",
		"ring.control", "ring.turn", "ring.turned", "world.enter", "world.leave")
}

// So it is with a request that is refused, since workers have died of it.
func TestCrashRingRefuses(t *testing.T) {
	seen := crashRefused(t, func() [][]*call { return number([][]*call{fatal()}) }, ringRigs(t))
	mustHaveDied(t, seen, "ring.restore", "ring.restored", "ring.reply", "ring.reply.header", "ring.reply.length", "ring.done")
}

// The worker dies between any two stores of the pump's, which knows nothing of it,
// with requests parked and others under way. The next one begins there and then,
// and the pump goes on. (The pump's own death is the end of the mount.)
func TestCrashWhileThePumpIsAtWork(t *testing.T) {
	seen := map[string]int{}
	answers, state := map[uint64]string{}, ""
	for k := 0; ; k++ {
		batches := crashCalls()
		w := newWorld(t, batches)
		r := newRingRig(t, w)
		r.start()
		n, point := 0, ""
		invariants.Watch(func(name string) {
			if !strings.HasPrefix(name, "pump.") {
				return
			}
			if n++; n == k {
				point = name
				w.died(name, r.inFlight())
				r.start()
			}
		})
		for i, b := range batches {
			r.patience = i%2 == 0
			r.serve(b)
		}
		r.patience = false
		r.work()
		r.work()
		invariants.Watch(nil)
		what := fmt.Sprintf("step %d, dead at %q", k, point)
		if k == 0 {
			for id, c := range w.calls {
				answers[id] = c.answer
			}
			state = w.state()
			checkCalm(t, w)
		}
		for id, c := range w.calls {
			if !c.answered || c.answer != answers[id] {
				t.Errorf("%s: %s: answered %v: %.80q, want %.80q", what, c.name, c.answered, c.answer, answers[id])
			}
		}
		if got := w.state(); got != state {
			t.Errorf("%s: there is %q, want %q", what, got, state)
		}
		if err := r.rest(); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		_ = unix.Munmap(r.mem)
		if seen[point]++; k > 0 && point == "" || t.Failed() {
			break
		}
	}
	mustHaveDied(t, seen, "pump.bring", "pump.given", "pump.brought", "pump.ready", "pump.taken", "pump.clear", "pump.cleared")
}
