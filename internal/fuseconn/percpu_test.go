package fuseconn

import (
	"errors"
	"fmt"
	"os"
	"testing"
	"time"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// TestReaderSurvives starts a reader on a file that is not mounted yet: each
// read fails. Once it is mounted the same reader serves, until ENODEV.
func TestReaderSurvives(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	f, err := openDevice()
	if err != nil {
		t.Skipf("no /dev/fuse on this machine: %v", err)
	}
	defer f.Close()
	rd := newTestReader(t, newStore("plain"), f.Fd())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		rd.loop(func(err error) { t.Error(err) })
	}()
	deadline := time.Now().Add(2 * time.Minute)
	wait := func(what string, done func() bool) {
		t.Helper()
		for !done() {
			if time.Now().After(deadline) {
				t.Fatalf("%s: %+v", what, rd.stats())
			}
			time.Sleep(time.Millisecond)
		}
	}
	wait("no error met", func() bool { return rd.stats().Survived > 8 })
	dir := t.TempDir()
	data := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", f.Fd())
	if err := unix.Mount(fsName, dir, "fuse."+fsName, 0, data); err != nil {
		t.Fatal(err)
	}
	wait("INIT did not arrive", func() bool { return rd.stats().Control > 0 })
	if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	select {
	case <-ended:
	case <-time.After(2 * time.Minute):
		t.Fatal("the reader did not end")
	}
}

// initRequest is an INIT as a kernel would send it.
func initRequest(minor uint32, flags uint64) []byte {
	q := fuse.InitIn{
		InHeader: fuse.InHeader{Opcode: opInit, Unique: 2, Length: uint32(unsafe.Sizeof(fuse.InitIn{}))},
		Major:    7, Minor: minor, Flags: uint32(flags), Flags2: uint32(flags >> 32),
	}
	return append([]byte(nil), unsafe.Slice((*byte)(unsafe.Pointer(&q)), unsafe.Sizeof(q))...)
}

func TestResumedInit(t *testing.T) {
	null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	const all = fuse.CAP_ASYNC_DIO | fuse.CAP_MAX_PAGES | fuse.CAP_INIT_EXT | fuse.CAP_HAS_RESEND |
		fuse.CAP_PASSTHROUGH | fuse.CAP_READDIRPLUS | fuse.CAP_NO_OPEN_SUPPORT
	for _, c := range []struct {
		name  string
		saved []byte
		want  error
	}{
		{"resumed", initRequest(45, all), nil},
		{"no asynchronous direct I/O", initRequest(45, all&^fuse.CAP_ASYNC_DIO), ErrNoAsyncDIO},
		{"something else", make([]byte, 104), ErrProtocol},
		{"cut off", initRequest(45, all)[:50], ErrProtocol},
	} {
		_, l := Plan([]int{0}, 4<<30)
		mem, err := anonymous(l.Bytes(1))
		if err != nil {
			t.Fatal(err)
		}
		p, err := NewPerCPU(PerCPUConfig{
			Config: Config{Handler: newStore("plain"), Tree: newTree(), MaxBackground: MaxBackground(2)},
			Main:   null, Clones: []*os.File{null}, CPUs: []int{-1}, Layout: l, Memory: mem,
			SaveInit: func([]byte) error { return errors.New("saved what it was given") },
			Resume:   c.saved,
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Serve(); !errors.Is(err, ErrProtocol) {
			t.Errorf("%s: Serve before Init: %v", c.name, err)
		}
		if err := p.Init(); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
		n := p.Negotiated()
		if c.want == nil && (n.MaxWrite != MaxWrite || n.MaxBackground != 576 || !n.Resend || n.Minor != 28 ||
			n.Flags != fuse.CAP_ASYNC_DIO|fuse.CAP_MAX_PAGES|fuse.CAP_INIT_EXT) {
			t.Errorf("%s: %+v", c.name, n)
		}
	}
	if _, err := NewPerCPU(PerCPUConfig{}); err == nil {
		t.Error("a connection without readers")
	}
}
