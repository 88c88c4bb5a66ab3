package fuseconn

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/zramfs/zramfs/internal/host"
)

// mounted is a file system that another process serves.
type mounted struct {
	t         *testing.T
	transport string
	dir       string
	cmd       *exec.Cmd
	out       *bufio.Reader
	done      bool
}

func start(t *testing.T, transport, mode string) *mounted {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	if _, err := os.Stat(devFuse); err != nil {
		t.Skip("no /dev/fuse on this machine")
	}
	if transport == "gofuse" {
		if _, err := exec.LookPath("fusermount3"); err != nil {
			t.Skip("no fusermount3 on this machine")
		}
	}
	m := &mounted{t: t, dir: t.TempDir(), transport: transport}
	m.cmd = exec.Command(os.Args[0], transport, m.dir)
	m.cmd.Env = append(os.Environ(), serverEnv+"="+mode)
	if mode != "panic" { // whose last words would look like a failure
		m.cmd.Stderr = os.Stderr
	}
	pipe, err := m.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := m.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	m.out = bufio.NewReader(pipe)
	t.Cleanup(func() {
		if !m.done {
			unix.Unmount(m.dir, unix.MNT_DETACH)
			m.cmd.Process.Kill()
			m.cmd.Wait()
		}
	})
	if line, err := m.out.ReadString('\n'); line != "ready\n" {
		t.Fatalf("server says %q, %v", line, err)
	}
	return m
}

// stop unmounts, and says what the server counted: Serve has ended.
func (m *mounted) stop() result {
	m.t.Helper()
	if err := host.Unmount(m.dir, false); err != nil {
		m.t.Fatal(err)
	}
	return m.end()
}

func (m *mounted) end() (r result) {
	m.t.Helper()
	line, err := m.out.ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &r)
	}
	if err = errors.Join(err, m.cmd.Wait()); err != nil {
		m.t.Fatalf("server: %v: %q", err, line)
	}
	m.done = true
	for _, rd := range r.Stats.Readers {
		if rd.Failed != 0 && r.Resent == 0 {
			m.t.Errorf("the kernel did not take %d replies", rd.Failed)
		}
	}
	return r
}

func (m *mounted) open(name string, flags int) *os.File {
	m.t.Helper()
	f, err := os.OpenFile(filepath.Join(m.dir, name), flags, 0)
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { f.Close() })
	return f
}

// page fills p so that each page names its place and generation.
func page(p []byte, off int64, gen uint64) {
	for i := 0; i < len(p); i += 16 {
		binary.LittleEndian.PutUint64(p[i:], uint64(off)+uint64(i))
		binary.LittleEndian.PutUint64(p[i+8:], gen)
	}
}

func both(t *testing.T, mode string, f func(t *testing.T, m *mounted)) {
	for _, transport := range []string{"percpu", "gofuse"} {
		t.Run(transport, func(t *testing.T) { f(t, start(t, transport, mode)) })
	}
	t.Run("ring", func(t *testing.T) { f(t, startRing(t, mode)) })
}

func TestMountedFile(t *testing.T) {
	both(t, "plain", func(t *testing.T, m *mounted) {
		mounts, err := os.ReadFile("/proc/mounts")
		if err != nil {
			t.Fatal(err)
		}
		if want := fmt.Sprintf("zramfs %s fuse.zramfs ", m.dir); !strings.Contains(string(mounts), want) {
			t.Errorf("/proc/mounts does not have %q", want)
		}
		f := m.open("disk", os.O_RDWR|syscall.O_DIRECT)
		for _, size := range []int{4096, 512, 12288, 1 << 20, 3 << 20} {
			off := int64(5 << 20)
			w, r := aligned(size), aligned(size)
			page(w, off, uint64(size))
			if n, err := f.WriteAt(w, off); n != size || err != nil {
				t.Fatalf("write %d: %d, %v", size, n, err)
			}
			if n, err := f.ReadAt(r, off); n != size || err != nil {
				t.Fatalf("read %d: %d, %v", size, n, err)
			}
			if !bytes.Equal(w, r) {
				t.Errorf("%d bytes come back different", size)
			}
		}
		if err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 5<<20, 8192); err != nil {
			t.Errorf("punch: %v", err)
		}
		b, want := aligned(12288), aligned(12288)
		page(want[8192:], 5<<20+8192, 3<<20)
		if _, err := f.ReadAt(b, 5<<20); err != nil || !bytes.Equal(b, want) {
			t.Errorf("after punch: %v", err)
		}
		if err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_COLLAPSE_RANGE, 0, 4096); !errors.Is(err, unix.EOPNOTSUPP) {
			t.Errorf("collapse: %v", err)
		}
		if err := f.Sync(); err != nil {
			t.Errorf("fsync: %v", err)
		}
		if n, err := f.ReadAt(b[:4096], diskSize-2048); n != 2048 || err == nil {
			t.Errorf("read over the end: %d, %v", n, err)
		}
		if n, err := f.WriteAt(b[:4096], diskSize); n > 0 || !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("write past the end: %d, %v", n, err)
		}
		f.Close()

		r := m.stop()
		most, background := MaxWrite, 256+64
		if m.transport == "ring" {
			most, background = ringPayload, 1280+64
		}
		if r.Negotiated.Flags&fuse.CAP_ASYNC_DIO == 0 || r.Negotiated.MaxWrite != most ||
			r.Negotiated.MaxBackground != background {
			t.Errorf("negotiated %+v", r.Negotiated)
		}
		if r.Stats.Unpinned != "" {
			t.Errorf("not pinned: %s", r.Stats.Unpinned)
		}
	})
}

func TestControl(t *testing.T) {
	both(t, "plain", func(t *testing.T, m *mounted) {
		entries, err := os.ReadDir(m.dir)
		if err != nil || len(entries) != 2000 || entries[1999].Name() != "entry-1999" {
			t.Errorf("readdir: %d entries, %v", len(entries), err)
		}
		var st unix.Statfs_t
		if err := unix.Statfs(m.dir, &st); err != nil || st.Bsize != 4096 || st.Frsize != 4096 {
			t.Errorf("statfs: %+v, %v", st, err)
		}
		if _, err := unix.Getxattr(m.dir, "user.x", nil); !errors.Is(err, unix.EOPNOTSUPP) {
			t.Errorf("getxattr: %v", err)
		}
		if _, err := os.Stat(m.dir + "/none"); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("stat of nothing: %v", err)
		}
		if err := unix.Mkfifo(m.dir+"/fifo", 0o600); err == nil {
			t.Error("mkfifo succeeds")
		}
		f := m.open("file", os.O_RDWR)
		// One request each; what is longer than a page is cut, as in sysfs.
		for _, size := range []int{1, 100, 500, 4096, 5000} {
			b := bytes.Repeat([]byte("x"), size)
			b[min(size, 4096)-1] = 'e'
			if n, err := syscall.Write(int(f.Fd()), b); n != min(size, 4096) || err != nil {
				t.Errorf("write %d: %d, %v", size, n, err)
			}
		}
		got, err := os.ReadFile(m.dir + "/file")
		if want := "1:1:e\n100:100:e\n500:500:e\n4096:4096:e\n4096:4096:e\n"; string(got) != want || err != nil {
			// go-fuse's server tells the size of the whole write.
			if want = strings.Replace(want, "4096:4096:e\n4096:", "4096:4096:e\n5000:", 1); string(got) != want {
				t.Errorf("the file has %q, %v", got, err)
			}
		}
		f.Close()
		m.stop()
	})
}

// TestConcurrent has writers and readers of disjoint ranges at once.
func TestConcurrent(t *testing.T) {
	for _, mode := range []string{"plain", "park"} {
		t.Run(mode, func(t *testing.T) {
			both(t, mode, func(t *testing.T, m *mounted) {
				const rounds = 40
				var wg sync.WaitGroup
				for g := range 8 {
					wg.Go(func() {
						f, err := os.OpenFile(m.dir+"/disk", os.O_RDWR|syscall.O_DIRECT, 0)
						if err != nil {
							t.Error(err)
							return
						}
						defer f.Close()
						base := int64(g) * (4 << 20)
						for i := range rounds {
							size := []int{4096, 8192, 65536, 1 << 20}[i%4]
							off := base + int64(i%3)<<20
							w, r := aligned(size), aligned(size)
							page(w, off, uint64(g*1000+i))
							if n, err := f.WriteAt(w, off); n != size || err != nil {
								t.Errorf("write: %d, %v", n, err)
								return
							}
							if n, err := f.ReadAt(r, off); n != size || err != nil {
								t.Errorf("read: %d, %v", n, err)
								return
							}
							if !bytes.Equal(w, r) {
								t.Errorf("writer %d, round %d: different bytes", g, i)
								return
							}
						}
					})
				}
				wg.Wait()
				r := m.stop()
				var parked, writes uint64
				for _, rd := range r.Stats.Readers {
					parked += rd.Parked
					writes += rd.Writes
				}
				want := uint64(8 * rounds)
				if m.transport == "ring" {
					want = 8 * rounds / 4 * (3 + (1<<20)/ringPayload)
				}
				if writes != want || mode == "park" && parked == 0 {
					t.Errorf("%d writes, %d parked", writes, parked)
				}
			})
		})
	}
}

// TestHold parks writes until every spare buffer is gone: the next write gets
// ENOSPC, reads go on, and all that was parked is answered in the end.
func TestHold(t *testing.T) {
	m := start(t, "percpu", "hold")
	type outcome struct {
		off int64
		err error
	}
	const writers = 24
	results := make(chan outcome, writers)
	for i := range writers {
		go func() {
			f, err := os.OpenFile(m.dir+"/disk", os.O_RDWR|syscall.O_DIRECT, 0)
			if err != nil {
				results <- outcome{-1, err}
				return
			}
			defer f.Close()
			off := int64(magicAt + i*4096)
			b := aligned(4096)
			page(b, off, 7)
			_, err = f.WriteAt(b, off)
			results <- outcome{off, err}
		}()
	}
	refused := 0
	// Each reader holds at most maxSpares; the others fail at once.
	for range writers - 2*maxSpares {
		select {
		case o := <-results:
			if !errors.Is(o.err, syscall.ENOSPC) {
				t.Fatalf("a write that found no spare: %v", o.err)
			}
			refused++
		case <-time.After(2 * time.Minute):
			if refused == 0 {
				t.Fatal("no write was refused")
			}
		}
	}
	f := m.open("disk", os.O_RDWR|syscall.O_DIRECT)
	b := aligned(1 << 20)
	for range 20 {
		if n, err := f.ReadAt(b, 0); n != len(b) || err != nil {
			t.Fatalf("read while all buffers are parked: %d, %v", n, err)
		}
	}
	if _, err := f.ReadAt(b[:4096], magicAt); err != nil { // releases
		t.Fatal(err)
	}
	for range writers - refused { // as it is now
		o := <-results
		if errors.Is(o.err, syscall.ENOSPC) {
			refused++ // one reader had them all
			continue
		}
		if o.err != nil {
			t.Errorf("a parked write: %v", o.err)
			continue
		}
		want := aligned(4096)
		page(want, o.off, 7)
		if _, err := f.ReadAt(b[:4096], o.off); err != nil || !bytes.Equal(b[:4096], want) {
			t.Errorf("a parked write was not done: %v", err)
		}
	}
	f.Close()
	r := m.stop()
	var last uint64
	for _, rd := range r.Stats.Readers {
		last += rd.Last
	}
	if last < uint64(refused) {
		t.Errorf("%d refused, %d served from the last buffer", refused, last)
	}
}

// TestResend holds a write and asks the kernel to send it again: the second
// one is answered, under its own id; the first answer is not taken.
func TestResend(t *testing.T) {
	m := start(t, "percpu", "resend")
	done := make(chan error)
	go func() {
		f, err := os.OpenFile(m.dir+"/disk", os.O_RDWR|syscall.O_DIRECT, 0)
		if err == nil {
			b := aligned(4096)
			page(b, magicAt, 3)
			_, err = f.WriteAt(b, magicAt)
			f.Close()
		}
		done <- err
	}()
	f := m.open("disk", os.O_RDWR|syscall.O_DIRECT)
	timeout := time.After(2 * time.Minute)
	for waiting := true; waiting; {
		if _, err := f.ReadAt(aligned(4096), magicAt); err != nil { // sends RESEND
			t.Fatal(err)
		}
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
			waiting = false
		case <-time.After(5 * time.Millisecond):
		case <-timeout:
			t.Fatal("the write was not sent again")
		}
	}
	f.Close()
	// The held request keeps its buffer, so Serve cannot end by itself.
	if err := host.Unmount(m.dir, false); err != nil {
		t.Fatal(err)
	}
}

// A panic in the handler or in the tree ends the process: who waits for an answer
// gets an error, not silence.
func TestPanic(t *testing.T) {
	for _, where := range []string{"handler", "tree"} {
		t.Run(where, func(t *testing.T) {
			both(t, "panic", func(t *testing.T, m *mounted) { testPanic(t, m, where == "tree") })
		})
	}
}

func testPanic(t *testing.T, m *mounted, tree bool) {
	f := m.open("disk", os.O_RDWR|syscall.O_DIRECT)
	b := aligned(4096)
	_, err := f.WriteAt(b, 0)
	if err != nil {
		t.Fatal(err)
	}
	if tree {
		_, err = os.Stat(m.dir + "/panic")
	} else {
		_, err = f.WriteAt(b, magicAt)
	}
	if !errors.Is(err, syscall.ECONNABORTED) && !errors.Is(err, syscall.ENOTCONN) {
		t.Errorf("a request that panics: %v", err)
		return // there is nothing to wait for
	}
	var exit *exec.ExitError
	if err := m.cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 2 {
		t.Errorf("the server ended with %v, want the exit code 2 of a panic", err)
	}
	m.done = true
	if err := unix.Unmount(m.dir, unix.MNT_DETACH); err != nil {
		t.Error(err)
	}
}

// TestAbort ends the connection under the server, as `umount -f` would.
func TestAbort(t *testing.T) {
	m := start(t, "percpu", "plain")
	var st unix.Stat_t
	if err := unix.Stat(m.dir, &st); err != nil {
		t.Fatal(err)
	}
	if err := unix.Unmount(m.dir, unix.MNT_FORCE); err != nil {
		t.Fatal(err)
	}
	m.end()
}

func TestBusy(t *testing.T) {
	both(t, "plain", func(t *testing.T, m *mounted) {
		f := m.open("disk", os.O_RDONLY)
		if err := host.Unmount(m.dir, false); !errors.Is(err, syscall.EBUSY) {
			t.Errorf("unmount while open: %v", err)
		}
		b := make([]byte, 4096)
		if _, err := f.ReadAt(b, 0); err != nil {
			t.Errorf("read after a refused unmount: %v", err)
		}
		f.Close()
		m.stop()
	})
}

func TestMountErrors(t *testing.T) {
	if _, err := Mount("/nonexistent/zramfs", MountOptions{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing mount point: %v", err)
	}
	f, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := os.Stat(devFuse); err != nil {
		t.Skip("no /dev/fuse on this machine")
	}
	if _, err := Clone(f); err == nil {
		t.Error("a clone of /dev/null")
	}
}
