package fuseconn

import (
	"sync"
	"syscall"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// Slow is a tree of which some files' writes may take long. Such a write is
// answered by a goroutine of its own; the tree's Write ends it soon after its
// cancel channel is closed.
type Slow interface {
	// IsSlow says whether a WRITE of the node may take long.
	IsSlow(node uint64) bool
}

const (
	// maxSlow is how many slow writes may be under way; more are refused.
	maxSlow = 32
	// maxEarly is how many interrupts are remembered that came before their
	// request, or long after it.
	maxEarly = 64
)

// slow knows the slow writes that are under way. All of it but ended and
// running belongs to the control thread.
type slow struct {
	tree    fuse.RawFileSystem     // immutable
	marks   Slow                   // immutable; nil: nothing is slow
	cancels map[uint64]*slowCancel // by id of the request
	// early are the ids of requests that were interrupted and not found. Two
	// readers read a request and its interrupt, so that may come first.
	early  [maxEarly]uint64
	nEarly int

	ended   chan *slot     // whose writes are answered; has room for all slots
	running sync.WaitGroup // the goroutines
	start   func(f func()) // running.Go; a test does it at once. Immutable
}

// slowCancel is closed at most once.
type slowCancel struct {
	c    chan struct{}
	done bool
}

func (c *slowCancel) close() {
	if !c.done {
		c.done = true
		close(c.c)
	}
}

func newSlow(tree fuse.RawFileSystem, slots int) slow {
	marks, _ := tree.(Slow)
	return slow{tree: tree, marks: marks, cancels: make(map[uint64]*slowCancel), ended: make(chan *slot, slots)}
}

func (w *slow) is(node uint64) bool { return w.marks != nil && w.marks.IsSlow(node) }

// store starts a slow write. The slot stays in use until it is answered; what
// it brought is copied, so that no reader misses its buffer.
func (c *control) store(s *slot, request []byte) {
	q := (*fuse.WriteIn)(unsafe.Pointer(unsafe.SliceData(request)))
	id := q.Unique &^ resent
	whole := len(request) >= rwInSize && len(request) == rwInSize+int(q.Size)
	if !whole || len(c.slow.cancels) == maxSlow {
		errno := syscall.EINVAL
		if whole {
			errno = syscall.EAGAIN
		}
		s.reply(q.Unique, 0, errno)
		s.close()
		c.giveBack(s)
		c.free <- s
		return
	}
	in := *q
	data := append([]byte(nil), request[rwInSize:]...)
	c.giveBack(s)
	s.id = id
	cancel := &slowCancel{c: make(chan struct{})}
	c.slow.cancels[id] = cancel
	if c.slow.wasEarly(id) {
		cancel.close()
	}
	c.slow.start(func() {
		n, status := c.slow.tree.Write(cancel.c, &in, data)
		s.reply(in.Unique, n, syscall.Errno(status))
		c.before.answered()
		s.close()
		c.slow.ended <- s
	})
}

// reply answers a write from the slot's memory, its request is not needed any
// more.
func (s *slot) reply(unique uint64, n uint32, errno syscall.Errno) {
	length := outHeaderSize
	if errno == 0 {
		length += writeOutSize
		*(*fuse.WriteOut)(unsafe.Pointer(&s.mem[slotRequest+outHeaderSize])) = fuse.WriteOut{Size: n}
	}
	out := (*fuse.OutHeader)(unsafe.Pointer(&s.mem[slotRequest]))
	*out = fuse.OutHeader{Length: uint32(length), Status: -int32(errno), Unique: unique}
	s.answer(s.mem[slotRequest:][:length])
}

// retire forgets a slow write that is answered.
func (c *control) retire(s *slot) {
	delete(c.slow.cancels, s.id)
	c.free <- s
}

// interrupt cancels the slow write that the request names. What is served at
// once is not interrupted.
func (w *slow) interrupt(request []byte) {
	if len(request) < inHeaderSize+8 {
		return
	}
	q := (*fuse.InterruptIn)(unsafe.Pointer(unsafe.SliceData(request)))
	id := q.Unique &^ resent
	if c := w.cancels[id]; c != nil {
		c.close()
		return
	}
	w.early[w.nEarly%maxEarly] = id
	w.nEarly++
}

// wasEarly says whether the request was interrupted before it came here.
func (w *slow) wasEarly(id uint64) bool {
	for i, e := range w.early {
		if e == id && id != 0 {
			w.early[i] = 0
			return true
		}
	}
	return false
}

// finish cancels what is under way and waits for it: the connection is gone.
func (w *slow) finish() {
	for _, c := range w.cancels {
		c.close()
	}
	w.running.Wait()
}
