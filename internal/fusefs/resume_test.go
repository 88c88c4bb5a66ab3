package fusefs

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/zramfs/zramfs/blockdev"
	"github.com/zramfs/zramfs/internal/shm"
)

// survivor is what outlives a worker: ledgers, and regions by name.
type survivor struct {
	t       *testing.T
	src     *shm.Source
	held    map[string]*os.File
	tree    []byte
	devices []byte
	last    *blockdev.Set // of the last worker, which may have died in Resume
}

func newSurvivor(t *testing.T) *survivor {
	s := &survivor{t: t, src: shm.OpenSource(), held: make(map[string]*os.File),
		tree: make([]byte, LedgerBytes), devices: make([]byte, blockdev.LedgerBytes)}
	t.Cleanup(func() {
		if len(s.held) != 0 {
			t.Errorf("%d regions were not given back", len(s.held))
		}
		s.src.Close()
	})
	return s
}

func (s *survivor) Create(name string, size int64) (*shm.Region, error) {
	r, err := s.src.Create(name, size)
	if err == nil {
		s.held[name] = s.reopen(r.File())
	}
	return r, err
}

func (s *survivor) Drop(name string, r *shm.Region) {
	s.held[name].Close()
	delete(s.held, name)
	r.Close()
}

func (s *survivor) reopen(f *os.File) *os.File {
	fd, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		s.t.Fatal(err)
	}
	return os.NewFile(uintptr(fd), f.Name())
}

// worker is one generation.
type worker struct {
	*Tree
	t *testing.T
}

func (s *survivor) worker() *worker {
	s.t.Helper()
	set, err := blockdev.NewSet(blockdev.Config{
		Source: s, Streams: 1, ReserveLow: 1 << 20, ReserveHigh: 2 << 20, Ledger: s.devices,
	})
	if err != nil {
		s.t.Fatal(err)
	}
	s.last = set
	regions := make(map[string]*shm.Region)
	for name, f := range s.held {
		if regions[name], err = shm.Adopt(name, s.reopen(f)); err != nil {
			s.t.Fatal(err)
		}
	}
	if _, err := set.Adopt(regions); err != nil {
		s.t.Fatal(err)
	}
	w := &worker{New(set, Options{Ledger: s.tree}), s.t}
	if err := w.Resume(); err != nil {
		s.t.Fatal(err)
	}
	return w
}

// end is the unmount.
func (w *worker) end() {
	w.t.Helper()
	w.OnUnmount()
	for _, d := range w.set.Devices() {
		if err := d.Check(); err != nil {
			w.t.Error(err)
		}
	}
	if err := w.set.Close(); err != nil {
		w.t.Error(err)
	}
}

// call is a request of the kernel. Its number in the list is its id, and the
// handle that an OPEN gives.
type call struct {
	op   string // open, read, write, release
	path string // of open
	fh   int    // the number of the OPEN
	data string
	off  uint64
}

// do serves a call and says what the kernel would get.
func (w *worker) do(calls []call, i int, again bool) string {
	id := func(i int) uint64 { return uint64(i+1) * 2 }
	c := calls[i]
	head := fuse.InHeader{Unique: id(i)}
	if again {
		head.Unique |= resent
	}
	if c.op != "open" {
		c.path = calls[c.fh].path
	}
	head.NodeId = nodeRoot
	for _, name := range strings.Split(c.path, "/") {
		head.NodeId = w.find(head.NodeId, name)
	}
	switch c.op {
	case "open":
		flags := uint32(syscall.O_RDONLY)
		if c.data != "" {
			flags = syscall.O_WRONLY
		}
		var out fuse.OpenOut
		st := w.Open(nil, &fuse.OpenIn{InHeader: head, Flags: flags}, &out)
		if st.Ok() && out.Fh != id(i) {
			return fmt.Sprintf("handle %d", out.Fh)
		}
		return st.String()
	case "read":
		buf := make([]byte, 4096)
		r, st := w.Read(nil, &fuse.ReadIn{InHeader: head, Fh: id(c.fh), Offset: c.off}, buf)
		if !st.Ok() {
			return st.String()
		}
		b, st := r.Bytes(nil)
		return fmt.Sprintf("%q %v", b, st)
	case "write":
		n, st := w.Write(nil, &fuse.WriteIn{InHeader: head, Fh: id(c.fh)}, []byte(c.data))
		return fmt.Sprintf("%d %v", n, st)
	case "release":
		w.Release(nil, &fuse.ReleaseIn{InHeader: head, Fh: id(c.fh)})
		return ""
	}
	panic(c.op)
}

// state is what users see of the devices.
func (w *worker) state() string {
	text := ""
	for _, d := range w.set.Devices() {
		text += fmt.Sprint(d.Name(), " ", d.Size())
		for _, a := range w.set.Attributes() {
			if slices.Contains([]string{"algorithm", "write_behind", "stable"}, a.Name) {
				b, err := a.Show(d, nil)
				text += fmt.Sprintf(" %s %v", strings.TrimSpace(string(b)), err)
			}
		}
		text += "\n"
	}
	return text
}

const control = "sys/class/zram-control/"

// echo is a store through a handle of its own, the next in the list.
func echo(calls []call, path, value string) []call {
	n := len(calls)
	return append(calls, call{op: "open", path: path, data: "w"}, call{op: "write", fh: n, data: value}, call{op: "release", fh: n})
}

// history is a list of calls that passes everything which a worker's death
// could do twice or lose.
func history() []call {
	const zram0, zram1 = "sys/block/zram0/", "sys/block/zram1/"
	var c []call
	add := func() {
		n := len(c)
		c = append(c, call{op: "open", path: control + "hot_add"}, call{op: "read", fh: n},
			call{op: "read", fh: n, off: 2}, call{op: "read", fh: n}, call{op: "release", fh: n})
	}
	add()
	add()
	c = echo(c, zram0+"comp_algorithm", "zstd\n")
	c = echo(c, zram0+"comp_algorithm", "nonsense\n")
	c = echo(c, zram0+"disksize", "1M")
	c = echo(c, zram0+"disksize", "2M") // busy
	c = echo(c, zram0+"mem_limit", "1M")
	disk := len(c)
	c = append(c, call{op: "open", path: "dev/zram0"}, call{op: "open", path: "dev/zram0"})
	c = echo(c, zram0+"reset", "1") // busy
	c = append(c, call{op: "release", fh: disk})
	c = echo(c, zram0+"reset", "1") // busy
	c = append(c, call{op: "release", fh: disk + 1})
	c = echo(c, zram1+"disksize", "1M")
	c = echo(c, control+"hot_remove", "1")
	c = echo(c, control+"hot_remove", "1") // there is none
	add()
	c = echo(c, zram0+"reset", "1")
	c = echo(c, zram0+"zramfs/stable", "wait")
	c = echo(c, zram0+"disksize", "3M")
	c = echo(c, zram0+"compact", "1")
	return c
}

// calm serves a list without a death: answers and states after each call.
func calm(t *testing.T, calls []call) (answers, states []string) {
	s := newSurvivor(t)
	w := s.worker()
	for i := range calls {
		answers = append(answers, w.do(calls, i, false))
		states = append(states, w.state())
	}
	w.end()
	return answers, states
}

// A worker dies before it has begun a call, or when it has done it and not
// answered: what comes again is answered as it would have been, takes effect
// once, and everything after it goes as if nobody had died.
func TestResume(t *testing.T) {
	calls := history()
	answers, states := calm(t, calls)
	for i, a := range answers {
		t.Logf("%d %s %s %q: %s", i, calls[i].op, calls[i].path, calls[i].data, a)
	}
	for i := range calls {
		for _, done := range []bool{false, true} {
			s := newSurvivor(t)
			w := s.worker()
			for j := range i {
				w.do(calls, j, false)
			}
			if done {
				w.do(calls, i, false)
			}
			for generation := range 2 { // the second dies before it has answered, too
				w.set.Abandon()
				w = s.worker()
				if got := w.do(calls, i, true); got != answers[i] {
					t.Errorf("call %d (%+v), done before: %v, generation %d: answer %s, want %s",
						i, calls[i], done, generation+2, got, answers[i])
				}
				if got := w.state(); got != states[i] {
					t.Errorf("call %d (%+v), done before: %v, generation %d: there is\n%swant\n%s",
						i, calls[i], done, generation+2, got, states[i])
				}
			}
			for j := i + 1; j < len(calls); j++ {
				if got := w.do(calls, j, false); got != answers[j] {
					t.Fatalf("call %d (%+v) after the death in %d: %s, want %s", j, calls[j], i, got, answers[j])
				}
			}
			w.end()
		}
	}
}

// The table of handles is full: ENFILE, until one is given back. All of them
// are counted again by the next worker.
func TestHandlesFull(t *testing.T) {
	s := newSurvivor(t)
	w := s.worker()
	calls := []call{{op: "open", path: control + "hot_add"}, {op: "read"}, {op: "release"}}
	for i := range calls {
		w.do(calls, i, false)
	}
	for range ledgerHandles {
		calls = append(calls, call{op: "open", path: "dev/zram0"})
		if got := w.do(calls, len(calls)-1, false); got != "OK" {
			t.Fatal(got)
		}
	}
	full := len(calls)
	calls = append(calls, call{op: "open", path: "dev/zram0"}, call{op: "open", path: control + "hot_add"},
		call{op: "open", path: "sys/block/zram0/initstate"}, call{op: "release", fh: 3})
	for i, want := range []string{"23=too many open files in system", "23=too many open files in system", "OK", "", "OK"} {
		n := full + i
		if i == 4 {
			n = full // the first again
		}
		if got := w.do(calls, n, false); got != want {
			t.Errorf("call %d: %s, want %s", i, got, want)
		}
	}
	w.set.Abandon()
	w = s.worker()
	for i := 4; i < full; i++ {
		w.do(append(calls, call{op: "release", fh: i}), len(calls), false)
	}
	if err := w.set.Device(0).Reset(); err == nil {
		t.Error("reset with one handle still open")
	}
	w.do(append(calls, call{op: "release", fh: full}), len(calls), false)
	if err := w.set.Device(0).Reset(); err != nil {
		t.Errorf("reset after the last release: %v", err)
	}
	w.end()
}

// What this binary did not write is refused.
func TestResumeRefuses(t *testing.T) {
	s := newSurvivor(t)
	s.worker().end()
	for _, c := range []struct {
		at   int
		want error
	}{{0, blockdev.ErrCorrupt}, {8, blockdev.ErrUnsupported}, {16, blockdev.ErrUnsupported}, {24, blockdev.ErrUnsupported}} {
		s.tree[c.at] ^= 1
		set, src, err := newSet()
		if err != nil {
			t.Fatal(err)
		}
		err = New(set, Options{Ledger: s.tree}).Resume()
		if !errors.Is(err, c.want) || !strings.Contains(err.Error(), "ledger of handles") {
			t.Errorf("byte %d changed: %v, want %v", c.at, err, c.want)
		}
		set.Close()
		src.Close()
		s.tree[c.at] ^= 1
	}
	set, src, err := newSet()
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	if err := New(set, Options{Ledger: s.tree[:64]}).Resume(); !errors.Is(err, blockdev.ErrInvalid) {
		t.Errorf("a short one: %v", err)
	}
	if err := errors.Join(New(set, Options{Ledger: s.tree}).Resume(), New(set, Options{}).Resume(), set.Close()); err != nil {
		t.Error(err)
	}
}
