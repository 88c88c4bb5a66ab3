package fuseconn

import (
	"os"
	"syscall"
	"testing"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// newTestReader has a reader whose replies go to a file that takes anything.
func newTestReader(t testing.TB, h Handler, fd uintptr) *reader {
	t.Helper()
	_, l := Plan([]int{0}, 4<<30)
	l.Spares = 2
	mem, err := anonymous(l.Bytes(1))
	if err != nil {
		t.Fatal(err)
	}
	c := newControl(newTree(), (&Config{MaxBackground: 64}).mountOptions(l.Payload), mem.Bytes(l.buffers(1), l.slots()),
		mem.Bytes(l.buffers(1)+l.slots(), pageSize+int64(l.Reply)), l.releases(64), &before{})
	return newReader(0, -1, fd, h, c, newDoor(2), mem.Bytes(0, l.buffers(1)), int(l.buffer()))
}

// feed puts a request in the current buffer, as read(2) would.
func feed(rd *reader, opcode uint32, node, unique, off uint64, size int) int {
	n := rwInSize
	if opcode == opWrite {
		n += size
	}
	*in[fuse.WriteIn](rd.current.head) = fuse.WriteIn{
		InHeader: fuse.InHeader{Length: uint32(n), Opcode: opcode, Unique: unique, NodeId: node},
		Offset:   off, Size: uint32(size),
	}
	return n
}

func devNull(t *testing.T) uintptr {
	f, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f.Fd()
}

func TestServeDoesNotAllocate(t *testing.T) {
	rd := newTestReader(t, newStore("plain"), devNull(t))
	for _, c := range []struct {
		name   string
		opcode uint32
		size   int
	}{{"read", opRead, 4096}, {"write", opWrite, 4096}, {"large write", opWrite, MaxWrite}, {"fsync", opFsync, 0}} {
		got := testing.AllocsPerRun(1000, func() {
			rd.serveOne(feed(rd, c.opcode, diskNode, 42, 8192, c.size))
		})
		if got != 0 {
			t.Errorf("%s: %v allocations", c.name, got)
		}
	}
}

// lastly parks everything it is given, and keeps the list.
type lastly struct{ got []*Request }

func (l *lastly) IsDisk(node uint64) bool { return node == diskNode }
func (l *lastly) Attach(*Request)         {}
func (l *lastly) Serve(r *Request) (int, bool, syscall.Errno) {
	if r.Last {
		return 0, false, syscall.ENOSPC
	}
	l.got = append(l.got, r)
	return 0, true, 0
}

func TestParkingDoesNotAllocate(t *testing.T) {
	l := &lastly{got: make([]*Request, 0, 16)}
	rd := newTestReader(t, l, devNull(t))
	got := testing.AllocsPerRun(1000, func() {
		for i := range 3 {
			rd.serveOne(feed(rd, opWrite, diskNode, uint64(2*i), 0, 4096))
		}
		if len(l.got) != 2 {
			t.Fatalf("%d requests parked with 2 spares", len(l.got))
		}
		for _, r := range l.got {
			r.Reply(4096, 0)
		}
		l.got = l.got[:0]
	})
	if got != 0 {
		t.Errorf("%v allocations", got)
	}
	if s := rd.stats(); s.Waits != 0 || s.Parked == 0 || s.Last == 0 {
		t.Errorf("%+v", s)
	}
}

func TestAnsweredTwice(t *testing.T) {
	l := &lastly{}
	rd := newTestReader(t, l, devNull(t))
	rd.serveOne(feed(rd, opWrite, diskNode, 6, 0, 4096))
	l.got[0].Reply(4096, 0)
	defer func() {
		if recover() == nil {
			t.Error("a second answer was accepted")
		}
	}()
	l.got[0].Reply(4096, 0)
}

// TestReplies looks at the bytes that the kernel would get.
func TestReplies(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	h := newStore("plain")
	rd := newTestReader(t, h, w.Fd())
	copy(h.data[4096:], "the first page")
	for _, c := range []struct {
		name       string
		opcode     uint32
		unique     uint64
		off        uint64
		size       int
		cut        int // bytes missing at the end of the request
		wantLength int
		wantStatus syscall.Errno
	}{
		{"read", opRead, 8, 4096, 4096, 0, 16 + 4096, 0},
		{"resent read", opRead, resent | 10, 4096, 512, 0, 16 + 512, 0},
		{"read past the end", opRead, 12, diskSize, 4096, 0, 16, 0},
		{"write", opWrite, 14, 0, 8192, 0, 24, 0},
		{"write past the end", opWrite, 16, diskSize, 4096, 0, 16, syscall.ENOSPC},
		{"negative offset", opWrite, 18, 1 << 63, 4096, 0, 16, syscall.EINVAL},
		{"more than was agreed", opRead, 20, 0, MaxWrite + 1, 0, 16, syscall.EINVAL},
		{"less than was said", opWrite, 22, 0, 4096, 96, 16, syscall.EINVAL},
		{"fsync", opFsync, 24, 0, 0, 0, 16, 0},
	} {
		n := feed(rd, c.opcode, diskNode, c.unique, c.off, c.size) - c.cut
		in[fuse.InHeader](rd.current.head).Length = uint32(n)
		x := rd.current.index
		rd.serveOne(n)
		b := make([]byte, 64<<10)
		n, err := r.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		out := (*fuse.OutHeader)(unsafe.Pointer(&b[0]))
		if n != c.wantLength || int(out.Length) != n || out.Unique != c.unique || out.Status != -int32(c.wantStatus) {
			t.Errorf("%s: %d bytes, %+v", c.name, n, *out)
		}
		if x.unique.Load() != c.unique&^resent || x.state.Load() != indexAnswered {
			t.Errorf("%s: index has %d, state %d", c.name, x.unique.Load(), x.state.Load())
		}
		if c.name == "read" && string(b[16:30]) != "the first page" {
			t.Errorf("read: %q", b[16:30])
		}
	}
	// What is not a message at all is dropped.
	rd.serveOne(7)
	if s := rd.stats(); s.Survived != 1 {
		t.Errorf("%+v", s)
	}
}

func TestControlIsRefusedWhenFull(t *testing.T) {
	rd := newTestReader(t, newStore("plain"), devNull(t))
	slots := len(rd.control.free)
	for i := range slots + 5 {
		rd.serveOne(feed(rd, opRead, fileNode, uint64(i), 0, 4096))
	}
	if s := rd.stats(); s.Refused != 5 || s.Control != uint64(slots)+5 {
		t.Errorf("%+v", s)
	}
	close(rd.control.todo)
	rd.control.loop()
	if len(rd.control.free) != slots {
		t.Errorf("%d slots came back", len(rd.control.free))
	}
}

// What is refused since no buffer is spare for it is not in flight.
func TestRefusedIsNotInFlight(t *testing.T) {
	l := &lastly{}
	rd := newTestReader(t, l, devNull(t))
	for i := range uint64(2) {
		rd.serveOne(feed(rd, opWrite, diskNode, 2*i, 0, 4096))
	}
	rd.serveOne(feed(rd, opWrite, fileNode, 8, 0, slotMax))
	if s := rd.stats(); s.Refused != 1 {
		t.Fatalf("%+v", s)
	}
	for len(rd.control.free) > 0 {
		if s := <-rd.control.free; s.index.state.Load() == indexOpen {
			t.Errorf("request %d is refused, and seems to be in flight", s.index.unique.Load())
		}
	}
}

func TestPlan(t *testing.T) {
	for _, c := range []struct {
		cpus            int
		memory          int64
		readers, spares int
		most            int64 // bytes
		background      int   // of two loop devices
	}{
		{1, 128 << 20, 1, 4, 1 << 20, 2*1280 + 64},
		{2, 128 << 20, 2, 4, 3 << 19, 2*1280 + 64},
		{4, 512 << 20, 4, 4, 3 << 20, 2*1280 + 64},
		{64, 512 << 20, 16, 3, 9 << 20, 2*1280 + 64},
		{1, 1 << 30, 1, 4, 6 << 20, 2*256 + 64},
		{2, 4 << 30, 2, 4, 12 << 20, 2*256 + 64},
		{12, 4 << 30, 12, 4, 68 << 20, 2*256 + 64},
		{16, 4 << 30, 16, 3, 68 << 20, 2*256 + 64},
		{256, 4 << 30, 16, 3, 68 << 20, 2*256 + 64},
	} {
		cpus := make([]int, c.cpus)
		for i := range cpus {
			cpus[i] = i
		}
		readers, l := Plan(cpus, c.memory)
		if len(readers) != c.readers || l.Spares != c.spares || !l.valid() || l.MaxBackground(2) != c.background {
			t.Errorf("%d CPUs, %d bytes: %d readers, %+v", c.cpus, c.memory, len(readers), l)
		}
		if bytes := l.Bytes(len(readers)); bytes >= c.most {
			t.Errorf("%d CPUs, %d bytes: %d bytes of buffers", c.cpus, c.memory, bytes)
		}
	}
}
