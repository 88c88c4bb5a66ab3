//go:build crashpoints

package fuseconn

import (
	"fmt"
	"os"
	"testing"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// percpuRig is /dev/fuse as a pair of sockets that keep packets apart: the test is
// the kernel.
type percpuRig struct {
	w        *world
	layout   Layout
	mem      memory
	kernel   int      // its end
	file     *os.File // the workers', which outlives them
	init     *call
	saved    []byte // INIT, as the keeper has it
	deaths   int
	notified bool // it was asked to send again what was read; since the last death
	p        *PerCPU
}

func newPercpuRig(t *testing.T, w *world, init *call) *percpuRig {
	r := &percpuRig{w: w, init: init, layout: Layout{Payload: 16 << 10, Spares: 2, Slots: 8, Reply: 8 << 10}}
	var err error
	if r.mem, err = anonymous(r.layout.Bytes(1)); err != nil {
		t.Fatal(err)
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	r.kernel, r.file = pair[0], os.NewFile(uintptr(pair[1]), "fuse")
	return r
}

func (r *percpuRig) close() {
	unix.Close(r.kernel)
	r.file.Close()
	_ = unix.Munmap(r.mem)
}

// send has a worker find a request.
func (r *percpuRig) send(c *call) {
	if c.marked && c != r.init && !r.notified {
		r.w.t.Fatalf("%s was read by a worker that is dead, and nobody asked for it again", c.name)
	}
	c.sent = true
	if _, err := unix.Write(r.kernel, c.message()); err != nil {
		r.w.t.Fatal(err)
	}
}

// hear takes what workers have said.
func (r *percpuRig) hear() {
	b := make([]byte, 64<<10)
	for {
		n, _, err := unix.Recvfrom(r.kernel, b, unix.MSG_DONTWAIT)
		if err == unix.EAGAIN {
			return
		}
		out := (*fuse.OutHeader)(unsafe.Pointer(&b[0]))
		if err != nil || n < outHeaderSize || int(out.Length) != n {
			r.w.t.Fatalf("a message of %d bytes: %+v, %v", n, *out, err)
		}
		if out.Unique == 0 && out.Status == notifyResend {
			r.notified = true
			continue
		}
		c := r.w.calls[out.Unique&^resent]
		if c == nil || !c.sent || c.answered || c.unique() != out.Unique {
			r.w.t.Errorf("an answer for %#x, which nobody waits for: %+v", out.Unique, c)
			continue
		}
		c.reply(out.Status, b[outHeaderSize:n])
	}
}

func (r *percpuRig) start() {
	r.notified = r.deaths == 0
	if r.saved == nil && !r.init.answered {
		r.send(r.init)
	}
	p, err := NewPerCPU(PerCPUConfig{
		Config: Config{Handler: r.w, Tree: r.w, MaxBackground: 64},
		Main:   r.file, Clones: []*os.File{r.file}, CPUs: []int{-1}, Layout: r.layout, Memory: r.mem,
		SaveInit: func(b []byte) error { r.saved = b; return nil },
	})
	if err != nil {
		r.w.t.Fatal(err)
	}
	p.control.slow.start = func(f func()) { f() }
	resume := r.saved
	p.Succeed(resume, r.w.poison)
	if err := p.Init(); err != nil {
		r.w.t.Fatal(err)
	}
	if resume != nil {
		if err := p.Resend(); err != nil {
			r.w.t.Fatal(err)
		}
	}
	r.p = p
	r.hear()
}

func (r *percpuRig) serve(batch []*call) {
	rd := r.p.readers[0]
	for _, c := range batch {
		if c.answered {
			continue
		}
		r.send(c)
		n, errno := rd.receive()
		if errno != 0 {
			r.w.t.Fatal(errno)
		}
		rd.serveOne(n)
		r.hear()
	}
	controlAll(r.p.control)
	r.w.release()
	r.hear()
}

func (r *percpuRig) inFlight() []uint64 {
	r.hear()
	return InFlight(r.mem, 1, r.layout)
}

// buried has what was read and not answered sent again.
func (r *percpuRig) buried() {
	r.deaths++
	b := make([]byte, 64<<10)
	for {
		if _, _, err := unix.Recvfrom(int(r.file.Fd()), b, unix.MSG_DONTWAIT); err != nil {
			break
		}
		r.w.calls[(*fuse.InHeader)(unsafe.Pointer(&b[0])).Unique&^resent].sent = false // nobody has read it
	}
	for _, c := range r.w.calls {
		if c.sent && !c.answered {
			c.sent, c.marked = false, true
		}
	}
}

func (r *percpuRig) rest() error {
	rd, c := r.p.readers[0], r.p.control
	if len(rd.spare) != len(rd.buffers)-1 || len(c.free) != r.layout.Slots-1 || len(c.todo)+len(c.releases)+len(c.slow.ended) != 0 {
		return fmt.Errorf("%d spare buffers of %d, %d free slots of %d, %d requests, %d RELEASEs and %d slow writes left",
			len(rd.spare), len(rd.buffers)-1, len(c.free), r.layout.Slots-1, len(c.todo), len(c.releases), len(c.slow.ended))
	}
	return nil
}

// percpuRigs makes one rig after another: begin is what is asked of the next one.
func percpuRigs(t *testing.T, begin func(init *call) [][]*call) (func() [][]*call, func(w *world) crashRig) {
	var init *call
	var last *percpuRig
	end := func() {
		if last != nil {
			last.close()
		}
	}
	t.Cleanup(end)
	return func() [][]*call {
			init = &call{name: "init", opcode: opInit, args: raw(fuse.InitIn{
				Major: 7, Minor: 40, MaxReadAhead: 128 << 10, Flags: fuse.CAP_ASYNC_DIO | fuse.CAP_BIG_WRITES,
			})}
			return begin(init)
		}, func(w *world) crashRig {
			end()
			last = newPercpuRig(t, w, init)
			return last
		}
}

// A worker that reads /dev/fuse dies at every store to its buffers, before and
// after each answer, and so does the next one while it takes over. Each request is
// answered once, as if nobody had died, and done once.
//
// The door is no part of this: who waits for requests is the process's own.
func TestCrashPerCPU(t *testing.T) {
	begin, rig := percpuRigs(t, func(init *call) [][]*call { return crashCalls(init) })
	seen := crashEverywhere(t, 1, begin, rig)
	mustHaveDied(t, seen, "conn.init", "conn.open", "conn.open.unique", "conn.opened", "conn.answer", "conn.close", "conn.closed",
		"conn.slot", "conn.slot.data", "conn.slot.full", "conn.control.answer", "conn.forget", "conn.forgot", "world.enter", "world.leave")
}

// So it is with a request that is refused, since workers have died of it.
func TestCrashPerCPURefuses(t *testing.T) {
	begin, rig := percpuRigs(t, func(init *call) [][]*call { return number([][]*call{{init}, fatal()}) })
	mustHaveDied(t, crashRefused(t, begin, rig), "conn.deny", "conn.denied", "conn.forget", "conn.forgot")
}
