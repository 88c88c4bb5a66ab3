//go:build crashpoints

package fuseconn

import (
	"bytes"
	"fmt"
	"slices"
	"syscall"
	"testing"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/zramfs/zramfs/internal/invariants"
)

const (
	slowNode = 5
	worldAt  = 32 << 10 // size of the disk
	heldAt   = 16 << 10 // a write there is parked
)

// call is a request of the kernel, and what became of it.
type call struct {
	name   string
	opcode uint32
	node   uint64
	args   []byte // what follows the header
	data   []byte // the payload, or a name
	id     uint64

	marked   bool // it has been sent before
	sent     bool // somebody has it now
	replied  bool // on a ring: done, and the pump may not know
	answered bool
	closing  bool // and a worker died before it had noted that
	answer   string
}

// raw gives the bytes of a struct of the protocol, its header apart.
func raw[T any](q T) []byte {
	return bytes.Clone(unsafe.Slice((*byte)(unsafe.Pointer(&q)), int(unsafe.Sizeof(q)))[inHeaderSize:])
}

// crashCalls are requests of all kinds, by what is asked for at once. begin is
// what comes before all of them.
func crashCalls(begin ...*call) (batches [][]*call) {
	fill := func(n int, b byte) []byte { return bytes.Repeat([]byte{b}, n) }
	write := func(name string, node, off uint64, data []byte) *call {
		return &call{name: name, opcode: opWrite, node: node, data: data, args: raw(fuse.WriteIn{Offset: off, Size: uint32(len(data))})}
	}
	read := func(name string, node, off uint64, n int) *call {
		return &call{name: name, opcode: opRead, node: node, args: raw(fuse.ReadIn{Offset: off, Size: uint32(n)})}
	}
	batches = [][]*call{ // in each no more than one write to files, whose order matters
		{
			write("two pages", diskNode, 0, fill(8192, 'a')),
			write("a parked page", diskNode, heldAt, fill(4096, 'b')),
			{name: "sync", opcode: opFsync, node: diskNode, args: raw(fuse.FsyncIn{})},
			write("a setting", fileNode, 0, fill(100, 'c')),
		},
		{
			read("two pages back", diskNode, 0, 8192),
			write("one that takes a buffer", fileNode, 0, fill(1000, 'd')),
		},
		{
			write("one that is cut", fileNode, 0, fill(8192, 'e')),
			{name: "release", opcode: opRelease, node: fileNode, args: raw(fuse.ReleaseIn{Fh: 77})},
		},
		{write("a slow one", slowNode, 0, fill(10, 'f'))},
		{
			write("a slow one that is cut", slowNode, 0, fill(8192, 'g')),
			{name: "punch", opcode: opFallocate, node: diskNode,
				args: raw(fuse.FallocateIn{Offset: 4096, Length: 4096, Mode: unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE})},
			write("a page over another", diskNode, 0, fill(4096, 'h')),
		},
		{
			read("all", diskNode, 0, worldAt/2),
			read("notes", fileNode, 0, 4096),
			{name: "attributes", opcode: opGetattr, node: fileNode, args: raw(fuse.GetAttrIn{})},
			{name: "lookup", opcode: opLookup, node: fuse.FUSE_ROOT_ID, data: []byte("disk\x00")},
			write("beyond the end", diskNode, worldAt, fill(4096, 'i')),
		},
	}
	if len(begin) > 0 {
		batches = append([][]*call{begin}, batches...)
	}
	return number(batches)
}

// fatal is a request that workers die of.
func fatal() []*call {
	return []*call{{name: "fatal", opcode: opWrite, node: diskNode, data: make([]byte, 4096), args: raw(fuse.WriteIn{Size: 4096})}}
}

// number gives requests their ids.
func number(batches [][]*call) [][]*call {
	n := uint64(0)
	for _, b := range batches {
		for _, c := range b {
			n += 2
			c.id = n
		}
	}
	return batches
}

// message is the request as /dev/fuse gives it.
func (c *call) message() []byte {
	h := fuse.InHeader{
		Length: uint32(inHeaderSize + len(c.args) + len(c.data)), Opcode: c.opcode, Unique: c.unique(), NodeId: c.node,
	}
	b := bytes.Clone(unsafe.Slice((*byte)(unsafe.Pointer(&h)), inHeaderSize))
	return slices.Concat(b, c.args, c.data)
}

func (c *call) unique() uint64 {
	if c.marked {
		return c.id | resent
	}
	return c.id
}

// reply notes the answer.
func (c *call) reply(status int32, payload []byte) {
	c.answered, c.answer = true, syscall.Errno(-status).Error()+" "+string(payload)
}

// world is what outlives workers: a disk, what was written to files, and which of
// that was done, as the ledger of the tree knows it.
type world struct {
	*tree
	t     *testing.T
	calls map[uint64]*call
	disk  []byte
	done  map[uint64]uint32 // of a control request with effects
	begun map[uint64]bool   // what the worker there is has begun and not answered
	held  []*Request        // of the worker there is

	poison []uint64 // what the next worker is to refuse
}

func newWorld(t *testing.T, batches [][]*call) *world {
	w := &world{
		tree: newTree(), t: t, calls: map[uint64]*call{}, disk: make([]byte, worldAt), done: map[uint64]uint32{}, begun: map[uint64]bool{},
	}
	for _, c := range slices.Concat(batches...) {
		w.calls[c.id] = c
	}
	return w
}

// enter notes that a worker begins a request.
func (w *world) enter(unique uint64) {
	c := w.calls[unique&^resent]
	switch {
	case c == nil:
		w.t.Fatalf("request %#x was never sent", unique)
	case c.answered || c.replied:
		w.t.Errorf("%s is done after it was answered", c.name)
	}
	w.begun[c.id] = true
	invariants.CrashPoint("world.enter")
}

func (w *world) leave() { invariants.CrashPoint("world.leave") }

func (w *world) IsDisk(node uint64) bool { return node == diskNode }
func (w *world) IsSlow(node uint64) bool { return node == slowNode }
func (w *world) Attach(*Request)         {}

func (w *world) Serve(r *Request) (n int, parked bool, errno syscall.Errno) {
	w.enter(r.unique)
	defer w.leave()
	if r.Op == Write && r.Offset == heldAt && !r.Last {
		w.held = append(w.held, r)
		return 0, true, 0
	}
	n, errno = w.do(r)
	return n, false, errno
}

func (w *world) do(r *Request) (int, syscall.Errno) {
	switch {
	case r.Op == Sync:
	case r.Offset >= worldAt:
		return 0, syscall.ENOSPC
	case r.Op == Read:
		return copy(r.Data, w.disk[r.Offset:]), 0
	case r.Op == Write:
		return copy(w.disk[r.Offset:], r.Data), 0
	case r.Op == Allocate:
		clear(w.disk[r.Offset:][:r.Length])
	}
	return 0, 0
}

// release answers what is parked.
func (w *world) release() {
	for len(w.held) > 0 {
		r := w.held[0]
		w.held = w.held[1:]
		r.Reply(w.do(r))
	}
}

// once does what has effects, unless a worker before did it.
func (w *world) once(unique uint64, do func() uint32) uint32 {
	w.enter(unique)
	defer w.leave()
	id := unique &^ resent
	n, did := w.done[id]
	switch {
	case !did:
		n = do()
		w.done[id] = n
	case unique&resent == 0:
		w.t.Errorf("%s comes again without the mark of that", w.calls[id].name)
	}
	return n
}

func (w *world) Write(cancel <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	return w.once(in.Unique, func() uint32 {
		n, _ := w.tree.Write(cancel, in, data)
		return n
	}), fuse.OK
}

func (w *world) Release(cancel <-chan struct{}, in *fuse.ReleaseIn) {
	w.once(in.Unique, func() uint32 {
		w.tree.Release(cancel, in)
		return 0
	})
}

// state is all that there is besides answers.
func (w *world) state() string { return fmt.Sprintf("%s %s %v", w.disk, w.notes, w.released) }

// died looks at what a worker leaves that died at a point: what it was doing is
// in flight, so that it can be accused of the death, and nothing else is.
func (w *world) died(point string, open []uint64) {
	for id := range w.begun {
		if c := w.calls[id]; !c.answered && !c.replied && !slices.Contains(open, id) {
			w.t.Errorf("died at %s: %s was being done, and in flight are %v", point, c.name, open)
		}
	}
	for _, id := range open {
		c := w.calls[id]
		if point == "conn.close" && c != nil && c.answered {
			c.closing = true // it never comes again, so to accuse it does no harm
		}
		if c == nil || c.answered && !c.closing {
			w.t.Errorf("died at %s: %d seems to be in flight", point, id)
		}
	}
	clear(w.begun)
	w.held = nil
}
