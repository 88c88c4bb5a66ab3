package fuseconn

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/zramfs/zramfs/internal/host"
	"github.com/zramfs/zramfs/internal/shm"
)

// workerEnv makes this binary a worker over inherited files: the mounted one, a
// clone for each of workerReaders, the memory of the buffers.
const (
	workerEnv     = "FUSECONN_TEST_WORKER"
	workerReaders = 2
)

// order is what starts a worker that has everything built.
type order struct {
	Resume []byte
	Poison []uint64
}

// smallLayout is the one of a tiny machine.
func smallLayout() Layout {
	_, l := Plan(make([]int, workerReaders), 128<<20)
	return l
}

// workerMain says standby when it has built everything, waits for its order,
// and prints the INIT that it keeps, and the counters at the end.
func workerMain() error {
	var files []*os.File
	for i := range 1 + workerReaders {
		files = append(files, os.NewFile(uintptr(3+i), "fuse"))
	}
	mem, err := shm.Adopt("buffers", os.NewFile(4+workerReaders, "buffers"))
	if err != nil {
		return err
	}
	h := newStore("hold")
	tree := &hanging{tree: newTree(), hang: os.Getenv(workerEnv) == "hang"}
	l := smallLayout()
	var saved []byte
	p, err := NewPerCPU(PerCPUConfig{
		Config: Config{Handler: h, Tree: tree, MaxBackground: l.MaxBackground(1)},
		Main:   files[0], Clones: files[1:], CPUs: []int{-1, -1}, Layout: l, Memory: mem,
		SaveInit: func(b []byte) error {
			saved = b
			switch os.Getenv(workerEnv) {
			case "before":
				os.Exit(0)
			case "after":
				_ = json.NewEncoder(os.Stdout).Encode(order{Resume: saved})
				os.Exit(0)
			}
			return nil
		},
	})
	if err != nil {
		return err
	}
	fmt.Println("standby")
	var o order
	if err := json.NewDecoder(os.Stdin).Decode(&o); err != nil {
		return err
	}
	p.Succeed(o.Resume, o.Poison)
	if err := p.Init(); err != nil {
		return err
	}
	if o.Resume != nil {
		if err := p.Resend(); err != nil {
			return err
		}
	}
	out := json.NewEncoder(os.Stdout)
	if err := out.Encode(order{Resume: saved}); err != nil {
		return err
	}
	if err := p.Serve(); err != nil {
		return err
	}
	return out.Encode(result{p.Transport(), p.Negotiated(), p.Stats(), h.resentSeen.Load(), tree.released})
}

// hanging is a tree in which a lookup of "hang" takes for ever.
type hanging struct {
	*tree
	hang bool
}

func (h *hanging) Lookup(cancel <-chan struct{}, in *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	if name == "hang" && h.hang {
		select {}
	}
	return h.tree.Lookup(cancel, in, name, out)
}

// heir is a worker's process.
type heir struct {
	t   *testing.T
	cmd *exec.Cmd
	in  *json.Encoder
	out *json.Decoder
}

func newHeir(t *testing.T, mode string, files []*os.File) *heir {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), workerEnv+"="+mode)
	cmd.ExtraFiles, cmd.Stderr = files, os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	out := bufio.NewReader(pipe)
	if line, err := out.ReadString('\n'); line != "standby\n" {
		t.Fatalf("worker says %q, %v", line, err)
	}
	return &heir{t, cmd, json.NewEncoder(in), json.NewDecoder(out)}
}

func (h *heir) start(o order) (saved []byte) {
	h.t.Helper()
	if err := h.in.Encode(o); err != nil {
		h.t.Fatal(err)
	}
	if err := h.out.Decode(&o); err != nil {
		h.t.Fatal(err)
	}
	return o.Resume
}

// legacy is what outlives workers: a mount, its files, the buffers.
type legacy struct {
	dir    string
	layout Layout
	mem    *shm.Region
	files  []*os.File
}

func newLegacy(t *testing.T) *legacy {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skip("no /dev/fuse on this machine")
	}
	g := &legacy{dir: t.TempDir(), layout: smallLayout()}
	src := shm.OpenSource()
	var err error
	if g.mem, err = src.Create("buffers", (g.layout.Bytes(workerReaders)+pageSize-1)&^(pageSize-1)); err != nil {
		t.Fatal(err)
	}
	main, err := Mount(g.dir, MountOptions{MaxRead: g.layout.Payload})
	if err != nil {
		t.Fatal(err)
	}
	g.files = []*os.File{main}
	t.Cleanup(func() {
		unix.Unmount(g.dir, unix.MNT_DETACH)
		for _, f := range g.files {
			f.Close()
		}
		g.mem.Close()
		src.Close()
	})
	for range workerReaders {
		f, err := Clone(main)
		if err != nil {
			t.Fatal(err)
		}
		g.files = append(g.files, f)
	}
	return g
}

func (g *legacy) heir(t *testing.T, mode string) *heir {
	return newHeir(t, mode, append(slices.Clip(g.files), g.mem.File()))
}

// The first worker dies when it has read INIT, and when it has saved it and not
// answered: the next one answers, and the mount works.
func TestTakeoverOfInit(t *testing.T) {
	for _, when := range []string{"before", "after"} {
		t.Run(when, func(t *testing.T) {
			g := newLegacy(t)
			first := g.heir(t, when)
			if err := first.in.Encode(order{}); err != nil {
				t.Fatal(err)
			}
			var o order
			if err := first.out.Decode(&o); (err == nil) != (when == "after") {
				t.Fatal(err)
			}
			first.cmd.Wait()
			second := g.heir(t, "serve")
			second.start(o)
			if st, err := os.Stat(g.dir + "/disk"); err != nil || st.Size() != diskSize {
				t.Errorf("stat: %v", err)
			}
			if err := host.Unmount(g.dir, false); err != nil {
				t.Fatal(err)
			}
			var r result
			if err := second.out.Decode(&r); err != nil {
				t.Fatal(err)
			}
			if r.Negotiated.MaxWrite != 128<<10 || r.Negotiated.Flags&fuse.CAP_ASYNC_DIO == 0 {
				t.Errorf("%+v", r.Negotiated)
			}
		})
	}
}

// A worker is killed with requests open; one that stood by takes over. What was
// open is known, comes again and is answered; what is poisoned gets EIO.
func TestTakeover(t *testing.T) {
	g := newLegacy(t)
	dir, l, mem := g.dir, g.layout, g.mem
	first := g.heir(t, "hang")
	saved := first.start(order{})
	second := g.heir(t, "serve")

	answers := make(chan error, 3)
	// Not os.OpenFile, which would ask the control thread to poll.
	disk, err := unix.Open(dir+"/disk", unix.O_RDWR|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, off := range []int64{magicAt, magicAt + 4096} {
		go func() {
			b := aligned(4096)
			page(b, off, 3)
			_, err := unix.Pwrite(disk, b, off)
			answers <- err
		}()
	}
	open := func(n int) (ids []uint64) {
		t.Helper()
		for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(time.Millisecond) {
			if ids = InFlight(mem, workerReaders, l); len(ids) == n {
				return ids
			}
			if time.Now().After(deadline) {
				t.Fatalf("open are %v, want %d", ids, n)
			}
		}
	}
	open(2)
	go func() {
		_, err := os.Stat(dir + "/hang")
		answers <- err
	}()
	ids := open(3)
	if err := first.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	first.cmd.Wait()
	if after := InFlight(mem, workerReaders, l); !slices.Equal(after, ids) {
		t.Errorf("open at the death are %v, before it %v", after, ids)
	}
	var killed unix.Timespec
	unix.ClockGettime(unix.CLOCK_MONOTONIC, &killed)
	second.start(order{Resume: saved, Poison: ids[:1]})
	var poisoned, absent, fine int
	for range 3 {
		select {
		case err := <-answers:
			switch {
			case err == nil:
				fine++
			case errors.Is(err, syscall.EIO):
				poisoned++
			case errors.Is(err, syscall.ENOENT):
				absent++
			default:
				t.Error(err)
			}
		case <-time.After(2 * time.Minute):
			t.Fatal("an answer is missing")
		}
	}
	if poisoned != 1 || absent != 1 || fine != 1 {
		t.Errorf("%d poisoned, %d not found, %d written", poisoned, absent, fine)
	}
	// Full requests of the small layout, both ways.
	b, got := aligned(1<<20), aligned(1<<20)
	page(b, 0, 7)
	if n, err := unix.Pwrite(disk, b, 0); n != len(b) || err != nil {
		t.Errorf("write: %d, %v", n, err)
	}
	if n, err := unix.Pread(disk, got, 0); n != len(b) || err != nil || !bytes.Equal(got, b) {
		t.Errorf("read: %d, %v", n, err)
	}
	unix.Close(disk)
	if err := host.Unmount(dir, false); err != nil {
		t.Fatal(err)
	}
	var r result
	if err := second.out.Decode(&r); err != nil {
		t.Fatal(err)
	}
	if err := second.cmd.Wait(); err != nil {
		t.Error(err)
	}
	s := r.Stats
	if s.Resent != 3 || s.Poisoned != 1 || s.FirstAnswer < killed.Nano() || r.Negotiated.MaxWrite != 128<<10 ||
		r.Negotiated.MaxBackground != 1280+64 || !r.Negotiated.Resend {
		t.Errorf("%+v", r)
	}
	if left := InFlight(mem, workerReaders, l); len(left) != 0 {
		t.Errorf("still open: %v", left)
	}
}

// Files are closed while the control thread hangs and has as many requests as it
// takes. Then the worker dies: the next one gives each handle back, once.
func TestTakeoverOfRelease(t *testing.T) {
	g := newLegacy(t)
	first := g.heir(t, "hang")
	saved := first.start(order{})
	second := g.heir(t, "serve")
	var files []int
	for range 5 {
		fd, err := unix.Open(g.dir+"/file", unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, fd)
	}
	const most = 1 << 12
	answers := make(chan error, most)
	go func() {
		_, err := os.Stat(g.dir + "/hang")
		answers <- err
	}()
	asked, answered := 1, 0
	answer := func(err error) (refused bool) {
		t.Helper()
		answered++
		if err != nil && !errors.Is(err, syscall.ENOENT) && !errors.Is(err, syscall.EAGAIN) {
			t.Error(err)
		}
		return errors.Is(err, syscall.EAGAIN)
	}
	// Until one is refused. Some come before it hangs, and signals of the runtime's
	// take slots, too: the kernel makes interrupts of them.
	for refused := false; !refused; asked++ {
		if asked == most {
			t.Fatalf("none of %d requests was refused", asked)
		}
		go func() {
			var st unix.Statfs_t
			answers <- unix.Statfs(g.dir, &st)
		}()
		select {
		case err := <-answers:
			refused = answer(err)
		case <-time.After(time.Millisecond):
		}
	}
	for _, fd := range files {
		if err := unix.Close(fd); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(100 * time.Millisecond) // till they have been read
	if err := first.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	first.cmd.Wait()
	second.start(order{Resume: saved})
	for answered < asked {
		answer(<-answers)
	}
	if err := host.Unmount(g.dir, false); err != nil {
		t.Fatal(err)
	}
	var r result
	if err := second.out.Decode(&r); err != nil {
		t.Fatal(err)
	}
	slices.Sort(r.Released)
	if n := len(slices.Compact(r.Released)); n != len(files) || len(r.Released) != n {
		t.Errorf("of %d handles %d were given back: %v", len(files), n, r.Released)
	}
}
