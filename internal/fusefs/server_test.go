package fusefs

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/zramfs/zramfs/blockdev"
	"github.com/zramfs/zramfs/internal/fuseconn"
	"github.com/zramfs/zramfs/internal/host"
	"github.com/zramfs/zramfs/internal/percpu"
	"github.com/zramfs/zramfs/internal/shm"
)

// The server runs in a process of its own: a process that touches a mount it
// serves itself can wait for its own threads.
const (
	serverEnv   = "FUSEFS_TEST_SERVER"
	segmentsEnv = "FUSEFS_TEST_SEGMENTS"
)

func TestMain(m *testing.M) {
	if transport := os.Getenv(serverEnv); transport != "" {
		if err := serverMain(transport, os.Args[1]); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

type source struct{ *shm.Source }

func (s source) Drop(_ string, r *shm.Region) { r.Close() }

func newSet() (*blockdev.Set, *shm.Source, error) {
	src := shm.OpenSource()
	set, err := blockdev.NewSet(blockdev.Config{
		Source: source{src}, Streams: 2, ReserveLow: 2 << 20, ReserveHigh: 4 << 20, Extra: slowRows(),
	})
	if err == nil {
		_, err = set.HotAdd()
	}
	return set, src, err
}

// serverMain says ready when it serves, and ok when Serve has ended and every
// device has passed its check.
func serverMain(transport, mountpoint string) error {
	runtime.GOMAXPROCS(runtime.NumCPU() + 4)
	set, src, err := newSet()
	if err != nil {
		return err
	}
	segments, _ := strconv.Atoi(os.Getenv(segmentsEnv)) // none is 0
	tree := New(set, Options{Segments: segments})
	cfg := fuseconn.Config{Handler: tree, Tree: tree, MaxBackground: fuseconn.MaxBackground(1)}
	var c fuseconn.Conn
	if transport == "gofuse" {
		c, err = fuseconn.NewGoFuse(mountpoint, cfg, 2)
	} else {
		c, err = newPerCPU(mountpoint, cfg, src)
	}
	if err != nil {
		return err
	}
	fmt.Println("ready")
	err = c.Serve()
	for _, d := range set.Devices() {
		err = errors.Join(err, d.Check())
		if reset := d.Reset(); reset != nil {
			err = errors.Join(err, fmt.Errorf("after unmount: %w", reset))
		}
	}
	if err = errors.Join(err, set.Close()); err == nil {
		fmt.Println("ok")
	}
	return err
}

func newPerCPU(mountpoint string, cfg fuseconn.Config, src *shm.Source) (fuseconn.Conn, error) {
	cpus, err := percpu.Allowed()
	if err != nil {
		return nil, err
	}
	pc := fuseconn.PerCPUConfig{Config: cfg}
	pc.CPUs, pc.Layout = fuseconn.Plan(cpus, 4<<30)
	if pc.Memory, err = src.Create("buffers", pc.Layout.Bytes(len(pc.CPUs))); err != nil {
		return nil, err
	}
	if pc.Main, err = fuseconn.Mount(mountpoint, fuseconn.MountOptions{}); err != nil {
		return nil, err
	}
	for range pc.CPUs {
		f, err := fuseconn.Clone(pc.Main)
		if err != nil {
			return nil, err
		}
		pc.Clones = append(pc.Clones, f)
	}
	c, err := fuseconn.NewPerCPU(pc)
	if err != nil {
		return nil, err
	}
	return c, c.Init()
}

// mounted is a tree that another process serves.
type mounted struct {
	t   *testing.T
	dir string
}

// both runs f on a mount of each transport, unmounts, and sees that the server
// ends well.
func both(t *testing.T, f func(t *testing.T, m *mounted)) { bothCut(t, 0, f) }

// bothCut is both, with the disk cut into segments.
func bothCut(t *testing.T, segments int, f func(t *testing.T, m *mounted)) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skip("no /dev/fuse on this machine")
	}
	for _, transport := range []string{"percpu", "gofuse"} {
		t.Run(transport, func(t *testing.T) {
			if _, err := exec.LookPath("fusermount3"); transport == "gofuse" && err != nil {
				t.Skip("no fusermount3 on this machine")
			}
			m := &mounted{t: t, dir: t.TempDir()}
			cmd := exec.Command(os.Args[0], m.dir)
			cmd.Env = append(os.Environ(), serverEnv+"="+transport, segmentsEnv+"="+strconv.Itoa(segments))
			cmd.Stderr = os.Stderr
			pipe, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			out := bufio.NewReader(pipe)
			ended := false
			t.Cleanup(func() {
				if !ended {
					unix.Unmount(m.dir, unix.MNT_DETACH)
					cmd.Process.Kill()
					cmd.Wait()
				}
			})
			if line, err := out.ReadString('\n'); line != "ready\n" {
				t.Fatalf("server says %q, %v", line, err)
			}
			f(t, m)
			if err := host.Unmount(m.dir, false); err != nil {
				t.Fatal(err)
			}
			line, _ := out.ReadString('\n')
			err = cmd.Wait()
			ended = true
			if line != "ok\n" || err != nil {
				t.Errorf("server ends with %q, %v", line, err)
			}
		})
	}
}

const block = "sys/block/zram0/"

func (m *mounted) path(name string) string { return filepath.Join(m.dir, name) }

func (m *mounted) get(name string) string {
	m.t.Helper()
	b, err := os.ReadFile(m.path(name))
	if err != nil {
		m.t.Errorf("get %s: %v", name, err)
	}
	return string(b)
}

func (m *mounted) want(name, value string) {
	m.t.Helper()
	if got := m.get(name); got != value+"\n" {
		m.t.Errorf("%s is %q, want %q", name, got, value)
	}
}

// put stores as `echo value >name` does.
func (m *mounted) put(name, value string) error {
	f, err := os.OpenFile(m.path(name), os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	n, err := f.WriteString(value + "\n")
	if err == nil && n != len(value)+1 {
		err = fmt.Errorf("%d of %d bytes written", n, len(value)+1)
	}
	return err
}

func (m *mounted) set(name, value string) {
	m.t.Helper()
	if err := m.put(name, value); err != nil {
		m.t.Fatalf("set %s to %s: %v", name, value, err)
	}
}

// setClosed is set after the last user was closed, who may hold the disk for a
// moment yet: close(2) waits for no RELEASE, and gofuse serves it beside what follows.
func (m *mounted) setClosed(name, value string) {
	m.t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if err := m.put(name, value); err == nil {
			return
		} else if !errors.Is(err, unix.EBUSY) {
			m.t.Fatalf("set %s to %s: %v", name, value, err)
		}
	}
	m.t.Fatalf("set %s to %s: still in use", name, value)
}

func (m *mounted) open(name string, flags int) *os.File {
	m.t.Helper()
	f, err := os.OpenFile(m.path(name), flags, 0)
	if err != nil {
		m.t.Fatal(err)
	}
	return f
}

func (m *mounted) size(name string) int64 {
	m.t.Helper()
	st, err := os.Stat(m.path(name))
	if err != nil {
		m.t.Fatal(err)
	}
	return st.Size()
}

// column is one number of a statistics file.
func (m *mounted) column(name string, n int) string {
	m.t.Helper()
	fields := strings.Fields(m.get(name))
	if n >= len(fields) {
		m.t.Fatalf("%s has %d columns", name, len(fields))
	}
	return fields[n]
}

// aligned is n bytes that O_DIRECT accepts.
func aligned(n int) []byte {
	b := make([]byte, n+pageSize)
	skip := -int(uintptr(unsafe.Pointer(&b[0]))) & (pageSize - 1)
	return b[skip:][:n:n]
}
