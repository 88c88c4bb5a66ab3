package fuseconn

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/zramfs/zramfs/internal/percpu"
)

// The server runs in a process of its own: a process that touches a mount it
// serves itself can wait for its own threads.
const serverEnv = "FUSECONN_TEST_SERVER"

func TestMain(m *testing.M) {
	if mode := os.Getenv(serverEnv); mode != "" {
		if err := serverMain(mode, os.Args[1], os.Args[2]); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if os.Getenv(workerEnv) != "" {
		if err := workerMain(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// serverMain mounts, prints a line when it serves, and the counters at the end.
func serverMain(mode, transport, mountpoint string) error {
	runtime.GOMAXPROCS(runtime.NumCPU() + 4)
	h := newStore(mode)
	tree := newTree()
	cfg := Config{Handler: h, Tree: tree, MaxBackground: MaxBackground(1)}
	var c Conn
	if transport == "gofuse" {
		g, err := NewGoFuse(mountpoint, cfg, 2)
		if err != nil {
			return err
		}
		c = g
	} else if transport == "ring" {
		p, pump, err := mountRing(mountpoint, cfg)
		if err != nil {
			return err
		}
		defer func() { <-pump.Done() }()
		h.resend = p.Resend
		c = p
	} else {
		p, err := mountPerCPU(mountpoint, cfg)
		if err != nil {
			return err
		}
		h.resend = p.Resend
		c = p
	}
	fmt.Println("ready")
	if err := c.Serve(); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(result{c.Transport(), c.Negotiated(), c.Stats(), h.resentSeen.Load(), tree.released})
}

type result struct {
	Transport  string
	Negotiated Negotiated
	Stats      Stats
	Resent     int64
	Released   []uint64 // handles
}

func mountPerCPU(mountpoint string, cfg Config) (*PerCPU, error) {
	cpus, err := percpu.Allowed()
	if err != nil {
		return nil, err
	}
	readers, l := Plan(cpus, 4<<30)
	main, err := Mount(mountpoint, MountOptions{})
	if err != nil {
		return nil, err
	}
	pc := PerCPUConfig{Config: cfg, Main: main, CPUs: readers, Layout: l}
	for range readers {
		f, err := Clone(main)
		if err != nil {
			return nil, err
		}
		pc.Clones = append(pc.Clones, f)
	}
	if pc.Memory, err = anonymous(l.Bytes(len(readers))); err != nil {
		return nil, err
	}
	var saved []byte
	pc.SaveInit = func(b []byte) error { saved = b; return nil }
	p, err := NewPerCPU(pc)
	if err != nil {
		return nil, err
	}
	if err := p.Init(); err != nil {
		return nil, err
	}
	if len(saved) < inHeaderSize {
		return nil, fmt.Errorf("INIT was not saved")
	}
	return p, nil
}

// memory is a plain mapping.
type memory []byte

func anonymous(n int64) (memory, error) {
	return unix.Mmap(-1, 0, int(n), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS)
}

func (m memory) Bytes(off, n int64) []byte { return m[off : off+n : off+n] }

func (m memory) Populate(off, n int64) error {
	return unix.Madvise(m[off:off+n], unix.MADV_POPULATE_WRITE)
}

const (
	diskNode = 2
	diskSize = 64 << 20
	fileNode = 3 // not a disk: served by the tree
	// Writes from here on are special, by the store's mode.
	magicAt = diskSize - 1<<20
)

// store is a disk in plain memory.
type store struct {
	mode string
	lock sync.RWMutex
	data []byte // guarded by lock

	parked     chan *Request
	mu         sync.Mutex
	held       []*Request // guarded by mu
	resend     func() error
	resentSeen atomic.Int64
}

func newStore(mode string) *store {
	s := &store{mode: mode, parked: make(chan *Request, 1024)}
	if mode != "null" {
		s.data = make([]byte, diskSize)
	}
	if mode == "park" {
		go s.answerLater()
	}
	return s
}

func (s *store) IsDisk(node uint64) bool { return node == diskNode }

func (s *store) Attach(r *Request) { r.Context = s }

func (s *store) Serve(r *Request) (int, bool, syscall.Errno) {
	if r.Context != s {
		return 0, false, syscall.EBADMSG
	}
	switch s.mode {
	case "null":
		return len(r.Data), false, 0
	case "park":
		if r.Last && r.Op == Write {
			n, errno := s.do(r)
			return n, false, errno
		}
		s.parked <- r
		return 0, true, 0
	case "hold", "resend":
		if r.Resent() {
			s.resentSeen.Add(1)
			break
		}
		// Not FSYNC: it waits for the inode's lock, which a parked write holds.
		if r.Op == Read && r.Offset == magicAt {
			if s.mode == "hold" {
				s.release()
			} else if err := s.resend(); err != nil {
				return 0, false, syscall.EPROTO
			}
			break
		}
		if r.Op == Write && r.Offset >= magicAt {
			if r.Last {
				return 0, false, syscall.ENOSPC
			}
			s.mu.Lock()
			s.held = append(s.held, r)
			s.mu.Unlock()
			return 0, true, 0
		}
	case "panic":
		if r.Op == Write && r.Offset >= magicAt {
			panic("as asked")
		}
	}
	n, errno := s.do(r)
	return n, false, errno
}

// release answers what is held, the last one first.
func (s *store) release() {
	s.mu.Lock()
	held := s.held
	s.held = nil
	s.mu.Unlock()
	for i := len(held) - 1; i >= 0; i-- {
		held[i].Reply(s.do(held[i]))
	}
}

// answerLater answers parked requests from its own thread, out of order.
func (s *store) answerLater() {
	for r := range s.parked {
		batch := []*Request{r}
		deadline := time.After(200 * time.Microsecond)
	collect:
		for len(batch) < 5 {
			select {
			case r := <-s.parked:
				batch = append(batch, r)
			case <-deadline:
				break collect
			}
		}
		for i := len(batch) - 1; i >= 0; i-- {
			batch[i].Reply(s.do(batch[i]))
		}
	}
}

func (s *store) do(r *Request) (int, syscall.Errno) {
	if r.Op == Read {
		s.lock.RLock()
		defer s.lock.RUnlock()
	} else {
		s.lock.Lock()
		defer s.lock.Unlock()
	}
	switch r.Op {
	case Read:
		if r.Offset >= diskSize {
			return 0, 0
		}
		return copy(r.Data, s.data[r.Offset:]), 0
	case Write:
		if r.Offset >= diskSize {
			return 0, syscall.ENOSPC
		}
		return copy(s.data[r.Offset:], r.Data), 0
	case Allocate:
		if r.Mode != unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE {
			return 0, syscall.EOPNOTSUPP
		}
		clear(s.data[r.Offset : r.Offset+r.Length])
		return int(r.Length), 0
	}
	return 0, 0
}

// tree has a disk, and a file that is none: what is written to it, in pieces
// of what one request brought, can be read.
type tree struct {
	fuse.RawFileSystem
	mu       sync.Mutex
	notes    []byte   // guarded by mu
	released []uint64 // guarded by mu; file handles

	onRelease func() // immutable; nil: none
}

func newTree() *tree { return &tree{RawFileSystem: fuse.NewDefaultRawFileSystem()} }

func (t *tree) attr(node uint64, out *fuse.Attr) fuse.Status {
	*out = fuse.Attr{Ino: node, Nlink: 1, Mode: syscall.S_IFREG | 0o600, Blksize: pageSize}
	switch node {
	case fuse.FUSE_ROOT_ID:
		out.Mode = syscall.S_IFDIR | 0o755
	case diskNode:
		out.Size = diskSize
	case fileNode:
		out.Size = pageSize
	default:
		return fuse.ENOENT
	}
	return fuse.OK
}

var names = map[string]uint64{"disk": diskNode, "file": fileNode}

func (t *tree) Lookup(_ <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	if name == "panic" {
		panic("as asked")
	}
	node, ok := names[name]
	if !ok || h.NodeId != fuse.FUSE_ROOT_ID {
		return fuse.ENOENT
	}
	out.NodeId = node
	return t.attr(node, &out.Attr)
}

func (t *tree) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	return t.attr(in.NodeId, &out.Attr)
}

func (t *tree) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	return t.attr(in.NodeId, &out.Attr)
}

func (t *tree) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	out.Fh = in.Unique &^ resent
	out.OpenFlags = fuse.FOPEN_DIRECT_IO | fuse.FOPEN_PARALLEL_DIRECT_WRITES | fuse.FOPEN_NOFLUSH
	return fuse.OK
}

func (t *tree) Release(_ <-chan struct{}, in *fuse.ReleaseIn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.released = append(t.released, in.Fh)
	if t.onRelease != nil {
		t.onRelease()
	}
}

func (t *tree) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if in.Offset >= uint64(len(t.notes)) {
		return fuse.ReadResultData(nil), fuse.OK
	}
	return fuse.ReadResultData(buf[:copy(buf, t.notes[in.Offset:])]), fuse.OK
}

func (t *tree) Write(_ <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.notes = append(t.notes, fmt.Sprintf("%d:%d:%c\n", in.Size, len(data), data[len(data)-1])...)
	return uint32(len(data)), fuse.OK
}

func (t *tree) OpenDir(_ <-chan struct{}, _ *fuse.OpenIn, _ *fuse.OpenOut) fuse.Status {
	return fuse.OK
}

func (t *tree) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	for i := int(in.Offset); i < 2000; i++ {
		if !out.AddDirEntry(fuse.DirEntry{Name: fmt.Sprintf("entry-%04d", i), Mode: syscall.S_IFREG, Ino: uint64(i) + 10}) {
			break
		}
	}
	return fuse.OK
}

func (t *tree) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	out.Bsize, out.Frsize, out.NameLen = pageSize, pageSize, 255
	return fuse.OK
}

// aligned is n bytes that O_DIRECT accepts.
func aligned(n int) []byte {
	b := make([]byte, n+pageSize)
	skip := -int(uintptr(unsafe.Pointer(&b[0]))) & (pageSize - 1)
	return b[skip:][:n:n]
}
