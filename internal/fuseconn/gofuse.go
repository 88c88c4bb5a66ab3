package fuseconn

import (
	"fmt"
	"sync/atomic"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// inFlight is how many disk requests the GoFuse transport serves at once.
const inFlight = 64

// GoFuse is the transport for who may not mount(2): go-fuse's server, over
// fusermount3. It allocates, its readers are goroutines that come and go, and
// an unexpected errno of read(2) ends one; so it is not for swap.
type GoFuse struct {
	server *fuse.Server // immutable
	cfg    Config       // immutable

	free  chan *Request // not in use; has room for all
	count counters
}

var _ Conn = (*GoFuse)(nil)

// NewGoFuse mounts and answers INIT. streams is the number of Request.Reader
// values to spread the requests over.
func NewGoFuse(mountpoint string, cfg Config, streams int) (*GoFuse, error) {
	g := &GoFuse{cfg: cfg, free: make(chan *Request, inFlight)}
	for i := range inFlight {
		r := &Request{Reader: i % max(streams, 1), done: make(chan struct{}, 1)}
		cfg.Handler.Attach(r)
		g.free <- r
	}
	opts := cfg.mountOptions(MaxWrite)
	opts.PanicHandler = endByPanic
	server, err := fuse.NewServer(&waiting{RawFileSystem: cfg.Tree, conn: g}, mountpoint, opts)
	if err != nil {
		return nil, fmt.Errorf("fuseconn: mount %s with fusermount3: %w", mountpoint, err)
	}
	g.server = server
	if server.KernelSettings().Flags64()&fuse.CAP_ASYNC_DIO == 0 {
		server.Unmount()
		return nil, fmt.Errorf("fuseconn: INIT: %w", ErrNoAsyncDIO)
	}
	return g, nil
}

// Serve answers requests until the file system is unmounted.
func (g *GoFuse) Serve() error {
	g.server.Serve()
	for range inFlight {
		<-g.free
	}
	return nil
}

// Transport is the transport's name.
func (g *GoFuse) Transport() string { return "gofuse" }

// Negotiated is what INIT agreed on, as far as go-fuse tells.
func (g *GoFuse) Negotiated() Negotiated {
	offer := g.server.KernelSettings()
	return Negotiated{
		Minor:         min(offer.Minor, 28), // what go-fuse speaks
		Flags:         offer.Flags64() & (fuse.CAP_ASYNC_DIO | fuse.CAP_ASYNC_READ | fuse.CAP_BIG_WRITES | fuse.CAP_MAX_PAGES),
		MaxWrite:      MaxWrite,
		MaxBackground: g.cfg.MaxBackground,
	}
}

// Stats reads the counters; all readers are counted as one.
func (g *GoFuse) Stats() Stats {
	c := &g.count
	return Stats{Readers: []ReaderStats{{
		CPU:      -1,
		Requests: c.requests.Load(),
		Reads:    c.reads.Load(),
		Writes:   c.writes.Load(),
		Parked:   c.parked.Load(),
	}}}
}

// do serves one request and waits for the answer. count is its kind's.
func (g *GoFuse) do(h *fuse.InHeader, op Op, off, length uint64, mode uint32, data []byte,
	count *atomic.Uint64) (int, fuse.Status) {
	if int64(off) < 0 || int64(length) < 0 {
		return 0, fuse.EINVAL
	}
	r := <-g.free
	defer func() { r.Data = nil; g.free <- r }()
	g.count.requests.Add(1)
	if count != nil {
		count.Add(1)
	}
	r.Op, r.Node, r.unique, r.Data = op, h.NodeId, h.Unique, data
	r.Offset, r.Length, r.Mode = int64(off), int64(length), mode
	n, parked, errno := g.cfg.Handler.Serve(r)
	if parked {
		g.count.parked.Add(1)
		<-r.done
		n, errno = r.n, r.errno
	}
	if errno == 0 && op <= Write && (n < 0 || n > len(data)) {
		errno = syscall.EIO
	}
	return n, fuse.Status(errno)
}

// waiting is the tree with the disks' requests going to the Handler.
type waiting struct {
	fuse.RawFileSystem
	conn *GoFuse
}

func (w *waiting) disk(h *fuse.InHeader) bool { return w.conn.cfg.Handler.IsDisk(h.NodeId) }

// Read implements fuse.RawFileSystem.
func (w *waiting) Read(cancel <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	if !w.disk(&in.InHeader) {
		return w.RawFileSystem.Read(cancel, in, buf)
	}
	n, st := w.conn.do(&in.InHeader, Read, in.Offset, 0, 0, buf, &w.conn.count.reads)
	if !st.Ok() {
		return nil, st
	}
	return fuse.ReadResultData(buf[:n]), fuse.OK
}

// Write implements fuse.RawFileSystem.
func (w *waiting) Write(cancel <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	if !w.disk(&in.InHeader) {
		return w.RawFileSystem.Write(cancel, in, data[:min(len(data), attributeMax)])
	}
	n, st := w.conn.do(&in.InHeader, Write, in.Offset, 0, 0, data, &w.conn.count.writes)
	return uint32(n), st
}

// Fallocate implements fuse.RawFileSystem.
func (w *waiting) Fallocate(cancel <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	if !w.disk(&in.InHeader) {
		return w.RawFileSystem.Fallocate(cancel, in)
	}
	_, st := w.conn.do(&in.InHeader, Allocate, in.Offset, in.Length, in.Mode, nil, nil)
	return st
}

// Fsync implements fuse.RawFileSystem.
func (w *waiting) Fsync(cancel <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	if !w.disk(&in.InHeader) {
		return w.RawFileSystem.Fsync(cancel, in)
	}
	_, st := w.conn.do(&in.InHeader, Sync, 0, 0, 0, nil, nil)
	return st
}
