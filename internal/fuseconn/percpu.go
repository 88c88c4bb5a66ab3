package fuseconn

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/zramfs/zramfs/internal/invariants"
)

// PerCPUConfig is what a PerCPU connection is made of. The files and the
// memory stay the caller's, to close when Serve has returned.
type PerCPUConfig struct {
	Config
	// Main is the mounted /dev/fuse file: INIT comes here, notifications go
	// here.
	Main *os.File
	// Clones are the readers' files, CPUs where they run (-1: anywhere).
	Clones []*os.File
	CPUs   []int
	// Layout is the one that Plan gave to the first worker of the mount.
	Layout Layout
	// Memory is Layout.Bytes(len(Clones)) bytes.
	Memory Memory

	// SaveInit is given the INIT request; the bytes are the callee's. An error
	// ends Init.
	SaveInit func(request []byte) error
	// Resume is the INIT request of a connection that an earlier worker
	// opened; nil: wait for the kernel's.
	Resume []byte
	// Poison lists requests, by Request.ID, that are answered with EIO if they
	// come again: workers have died of them.
	Poison []uint64
}

// PerCPU is the transport with a reader thread per CPU.
//
// Each request is answered on the file it was read from.
type PerCPU struct {
	cfg     PerCPUConfig // immutable
	before  *before      // immutable
	control *control     // immutable
	readers []*reader    // immutable

	negotiated Negotiated // set by Init, before Serve starts a thread
	taken      uint64     // of whoever calls Relieve: requests, as last seen

	unpinned atomic.Pointer[string]
}

var _ Conn = (*PerCPU)(nil)

// NewPerCPU populates the buffers and builds the readers; it starts nothing,
// and reads and writes nothing of what another worker may be using. So it may
// run long before Init.
func NewPerCPU(cfg PerCPUConfig) (*PerCPU, error) {
	n, l := len(cfg.Clones), cfg.Layout
	if n == 0 || n != len(cfg.CPUs) || !l.valid() {
		return nil, fmt.Errorf("fuseconn: %d files, %d CPUs, buffers %+v: %w", n, len(cfg.CPUs), l, errors.ErrUnsupported)
	}
	if err := cfg.Memory.Populate(0, (l.classic(n)+pageSize-1)&^(pageSize-1)); err != nil {
		return nil, fmt.Errorf("fuseconn: populate %d bytes of buffers: %w", l.classic(n), err)
	}
	p := &PerCPU{cfg: cfg, before: &before{poison: cfg.Poison}}
	slots := cfg.Memory.Bytes(l.buffers(n), l.slots())
	reply := cfg.Memory.Bytes(l.buffers(n)+l.slots(), pageSize+int64(l.Reply))
	opts := cfg.mountOptions(l.Payload)
	if len(l.Ring.CPUs) > 0 {
		opts.ExtraCapabilities |= fuse.CAP_OVER_IO_URING
	}
	p.control = newControl(cfg.Tree, opts, slots, reply, l.releases(cfg.MaxBackground), p.before)
	each, door := l.buffers(1), newDoor(runtime.NumCPU())
	for i, f := range cfg.Clones {
		mem := cfg.Memory.Bytes(int64(i)*each, each)
		rd := newReader(i, cfg.CPUs[i], f.Fd(), cfg.Handler, p.control, door, mem, int(l.buffer()))
		p.readers = append(p.readers, rd)
	}
	return p, nil
}

// Succeed gives Resume and Poison, if they were not known to NewPerCPU: what a
// worker that stood by calls before Init.
func (p *PerCPU) Succeed(resume []byte, poison []uint64) {
	p.cfg.Resume, p.before.poison = resume, poison
}

// Transport is the transport's name.
func (p *PerCPU) Transport() string { return "percpu" }

// Negotiated is what INIT agreed on.
func (p *PerCPU) Negotiated() Negotiated { return p.negotiated }

// Init answers the kernel's first message, or takes over what was agreed
// before. Requests are answered only when Serve runs.
func (p *PerCPU) Init() error {
	request := p.cfg.Resume
	if request == nil {
		var err error
		if request, err = p.readInit(); err != nil {
			return fmt.Errorf("fuseconn: read INIT: %w", err)
		}
	}
	if len(request) < inHeaderSize+16 || (*fuse.InHeader)(unsafe.Pointer(&request[0])).Opcode != opInit {
		return fmt.Errorf("fuseconn: INIT of %d bytes: %w", len(request), ErrProtocol)
	}
	saved := append([]byte(nil), request...)
	n, status := p.control.proto.HandleRequest([][]byte{request}, [][]byte{p.control.reply})
	const headed = outHeaderSize + int(unsafe.Sizeof(fuse.InitOut{}))
	if !status.Ok() || n < headed {
		return fmt.Errorf("fuseconn: answer INIT: %w", ErrProtocol)
	}
	p.negotiated = negotiated(saved, (*fuse.InitOut)(unsafe.Pointer(&p.control.reply[outHeaderSize])))
	if p.negotiated.Flags&fuse.CAP_ASYNC_DIO == 0 {
		return fmt.Errorf("fuseconn: INIT: %w", ErrNoAsyncDIO)
	}
	if p.cfg.Resume != nil {
		// What was open comes again, into whichever buffer.
		p.cfg.Layout.indices(p.cfg.Memory, len(p.readers), func(x *index) {
			if x.state.Load() != indexFree {
				invariants.CrashPoint("conn.forget")
				x.state.Store(indexFree)
				invariants.CrashPoint("conn.forgot")
			}
		})
		return nil
	}
	if p.cfg.SaveInit != nil {
		if err := p.cfg.SaveInit(saved); err != nil {
			return fmt.Errorf("fuseconn: save INIT: %w", err)
		}
		invariants.CrashPoint("conn.init")
	}
	if gone, errno := send(p.cfg.Main.Fd(), unsafe.Pointer(&p.control.reply[0]), n); errno != 0 {
		return fmt.Errorf("fuseconn: answer INIT: %w", errno)
	} else if gone {
		return fmt.Errorf("fuseconn: answer INIT: %w", ErrClosed)
	}
	return nil
}

// readInit waits for the first message on the mounted file. An earlier worker
// may have read it and died before it was saved.
func (p *PerCPU) readInit() ([]byte, error) {
	_ = p.Resend() // an old kernel does not know it; then there is no second worker
	r := p.readers[0].buffers[0]
	for failures := 0; ; failures++ {
		n, _, errno := syscall.Syscall(syscall.SYS_READ, p.cfg.Main.Fd(),
			uintptr(unsafe.Pointer(&r.head[requestAt])), uintptr(rwInSize+len(r.page)))
		switch errno {
		case 0:
			return append([]byte(nil), unsafe.Slice(&r.head[requestAt], int(n))...), nil
		case syscall.ENODEV:
			return nil, ErrClosed
		}
		backoff(failures)
	}
}

// negotiated compares both sides of INIT.
func negotiated(request []byte, out *fuse.InitOut) Negotiated {
	var offer fuse.InitIn
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&offer)), int(unsafe.Sizeof(offer))), request)
	return Negotiated{
		Minor:         out.Minor,
		Flags:         offer.Flags64() & out.Flags64(),
		MaxWrite:      int(out.MaxWrite),
		MaxBackground: int(out.MaxBackground),
		Resend:        offer.Flags64()&fuse.CAP_HAS_RESEND != 0,
	}
}

// Serve runs the readers and the control thread until the kernel has ended
// the connection and every request is answered. Init comes before it.
func (p *PerCPU) Serve() error { return p.serve(func() {}, func() {}, func() {}) }

// serve has start run beside the readers, stop when they have ended, and drain
// when the control thread has, too.
func (p *PerCPU) serve(start, stop, drain func()) error {
	if p.negotiated.MaxWrite == 0 {
		return fmt.Errorf("fuseconn: serve before INIT: %w", ErrProtocol)
	}
	var controlDone, readersDone sync.WaitGroup
	controlDone.Go(p.control.loop)
	for _, rd := range p.readers {
		readersDone.Go(func() { rd.loop(p.notPinned) })
	}
	start()
	readersDone.Wait()
	stop()
	close(p.control.todo)
	controlDone.Wait()
	drain()
	p.cfg.Tree.OnUnmount()
	return nil
}

func (p *PerCPU) notPinned(err error) {
	text := err.Error()
	p.unpinned.Store(&text)
}

// Resend asks the kernel to send every request again that was read and not
// answered: what a worker does that takes over from a dead one. Nobody else
// may still be answering.
func (p *PerCPU) Resend() error {
	out := fuse.OutHeader{Length: uint32(outHeaderSize), Status: notifyResend}
	if _, errno := send(p.cfg.Main.Fd(), unsafe.Pointer(&out), outHeaderSize); errno != 0 {
		return fmt.Errorf("fuseconn: resend: %w", errno)
	}
	return nil
}

// Stats reads the counters.
func (p *PerCPU) Stats() Stats {
	var s Stats
	for _, rd := range p.readers {
		c := rd.stats()
		s.Readers = append(s.Readers, c)
		s.Resent += c.Resent
		s.Poisoned += c.Poisoned
	}
	s.FirstAnswer = p.before.first.Load()
	if text := p.unpinned.Load(); text != nil {
		s.Unpinned = *text
	}
	return s
}
