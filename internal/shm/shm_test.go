package shm

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// sources are every kind of source that this machine can make.
func sources(t *testing.T) map[string]*Source {
	t.Helper()
	all := map[string]*Source{"memfd": AdoptSource(nil)}
	s := OpenSource()
	if s.NoSwap() {
		all["tmpfs"] = s
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return all
}

func each(t *testing.T, test func(t *testing.T, s *Source)) {
	for name, s := range sources(t) {
		t.Run(name, func(t *testing.T) { test(t, s) })
	}
}

func create(t *testing.T, s *Source, size int64) *Region {
	t.Helper()
	r, err := s.Create("test", size)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

type extent struct{ off, n int64 }

func extents(t *testing.T, data func(func(off, n int64) bool) error) []extent {
	t.Helper()
	var out []extent
	if err := data(func(off, n int64) bool { out = append(out, extent{off, n}); return true }); err != nil {
		t.Fatal(err)
	}
	return out
}

func same(a, b []extent) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

func resident(t *testing.T, r *Region) int64 {
	t.Helper()
	n, err := r.Resident()
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestCommitAndPunch(t *testing.T) {
	each(t, func(t *testing.T, s *Source) {
		const size = 1 << 30 // sparse: only what is touched counts
		r := create(t, s, size)
		if got := resident(t, r); got != 0 {
			t.Fatalf("a new region holds %d bytes", got)
		}
		for _, e := range []extent{{8 * PageSize, 4 * PageSize}, {512 << 20, 2 << 20}} {
			if err := r.Populate(e.off, e.n); err != nil {
				t.Fatal(err)
			}
		}
		if got, want := resident(t, r), int64(4*PageSize+2<<20); got != want {
			t.Fatalf("resident %d, want %d", got, want)
		}
		copy(r.Bytes(9*PageSize, 5), "hello")
		if err := r.Populate(8*PageSize, 4*PageSize); err != nil { // twice: changes nothing
			t.Fatal(err)
		}
		if got := r.Bytes(9*PageSize, 5); string(got) != "hello" {
			t.Fatalf("populate changed the content to %q", got)
		}
		if err := r.Punch(10*PageSize, PageSize); err != nil {
			t.Fatal(err)
		}
		want := []extent{{8 * PageSize, 2 * PageSize}, {11 * PageSize, PageSize}, {512 << 20, 2 << 20}}
		if got := extents(t, r.Data); !same(got, want) {
			t.Fatalf("data %v, want %v", got, want)
		}
		if err := r.Punch(0, size); err != nil {
			t.Fatal(err)
		}
		if got := resident(t, r); got != 0 {
			t.Fatalf("after punching all: %d bytes", got)
		}
		if err := r.Lock(0, PageSize); err != nil {
			t.Fatal(err)
		}
		if got := resident(t, r); got != PageSize {
			t.Fatalf("a locked page holds %d bytes", got)
		}
	})
}

func TestAdoptSeesWhatWasWritten(t *testing.T) {
	each(t, func(t *testing.T, s *Source) {
		r := create(t, s, 64*PageSize)
		copy(r.Bytes(5*PageSize, 4), "kept")
		fd, err := unix.Dup(int(r.File().Fd()))
		if err != nil {
			t.Fatal(err)
		}
		again, err := Adopt("again", os.NewFile(uintptr(fd), "again"))
		if err != nil {
			t.Fatal(err)
		}
		if got := again.Bytes(5*PageSize, 4); string(got) != "kept" {
			t.Fatalf("adopted region has %q", got)
		}
		if again.Size() != r.Size() || again.Name() != "again" {
			t.Fatalf("adopted region is %q of %d bytes", again.Name(), again.Size())
		}
		if err := again.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestRefusesWhatIsNotPages(t *testing.T) {
	s := AdoptSource(nil)
	for _, size := range []int64{-1, 0, 1, PageSize + 1} {
		if _, err := s.Create("bad", size); err == nil {
			t.Errorf("created a region of %d bytes", size)
		}
	}
	r := create(t, s, 4*PageSize)
	for _, e := range []extent{{-PageSize, PageSize}, {0, -PageSize}, {1, PageSize}, {0, 1},
		{4 * PageSize, PageSize}, {0, 5 * PageSize}, {1 << 62, 1 << 62}} {
		if r.Populate(e.off, e.n) == nil || r.Punch(e.off, e.n) == nil || r.Lock(e.off, e.n) == nil {
			t.Errorf("range %v was taken", e)
		}
		if _, err := NewWindow(r, e.off, e.n); err == nil {
			t.Errorf("window %v was made", e)
		}
	}
	if _, err := Adopt("none", os.NewFile(^uintptr(0)>>1, "none")); err == nil {
		t.Error("adopted a descriptor that is not open")
	}
}

func TestWindow(t *testing.T) {
	r := create(t, AdoptSource(nil), 64*PageSize)
	w, err := NewWindow(r, 16*PageSize, 16*PageSize)
	if err != nil {
		t.Fatal(err)
	}
	for _, off := range []int64{15, 31, 32} { // neighbours of the window, and its last page
		if err := r.Populate(off*PageSize, PageSize); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Populate(2*PageSize, PageSize); err != nil {
		t.Fatal(err)
	}
	copy(w.Bytes(2*PageSize, 3), "abc")
	if got := r.Bytes(18*PageSize, 3); !bytes.Equal(got, []byte("abc")) {
		t.Fatalf("the region has %q", got)
	}
	want := []extent{{2 * PageSize, PageSize}, {15 * PageSize, PageSize}}
	if got := extents(t, w.Data); !same(got, want) {
		t.Fatalf("data %v, want %v", got, want)
	}
	if w.Populate(16*PageSize, PageSize) == nil || w.Punch(-PageSize, PageSize) == nil {
		t.Error("reached out of the window")
	}
	if err := w.Punch(0, w.Size()); err != nil {
		t.Fatal(err)
	}
	want = []extent{{15 * PageSize, PageSize}, {32 * PageSize, PageSize}}
	if got := extents(t, r.Data); !same(got, want) {
		t.Fatalf("data %v, want %v", got, want)
	}
	defer func() {
		if recover() == nil {
			t.Error("Bytes reached out of the window")
		}
	}()
	w.Bytes(15*PageSize, 2*PageSize)
}

func TestNoName(t *testing.T) {
	each(t, func(t *testing.T, s *Source) {
		r := create(t, s, PageSize)
		st, err := r.File().Stat()
		if err != nil {
			t.Fatal(err)
		}
		if got := st.Mode().Perm(); got != 0o600 {
			t.Errorf("mode %v", got)
		}
		mounts, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(mounts, []byte("noswap")) {
			t.Errorf("the private tmpfs is mounted somewhere:\n%s", mounts)
		}
	})
}

// A child that inherits the mount's descriptor can make regions in it.
func TestSourceIsInherited(t *testing.T) {
	if os.Getenv("SHM_TEST_CHILD") != "" {
		r, err := AdoptSource(os.NewFile(3, "source")).Create("child", 4*PageSize)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Populate(0, r.Size()); err != nil {
			t.Fatal(err)
		}
		return
	}
	s, ok := sources(t)["tmpfs"]
	if !ok {
		t.Skip("this machine gives no noswap tmpfs (Linux < 6.4, or CAP_SYS_ADMIN is missing)")
	}
	exe, err := filepath.Abs(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, "-test.run=^TestSourceIsInherited$")
	cmd.Env = append(os.Environ(), "SHM_TEST_CHILD=1")
	cmd.ExtraFiles = []*os.File{s.File()}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

func TestPrivate(t *testing.T) {
	p, err := NewPrivate(1<<30 - 1)
	if err != nil {
		t.Fatal(err)
	}
	if p.Size() != 1<<30 {
		t.Errorf("size %d is not rounded up to pages", p.Size())
	}
	if err := p.Populate(PageSize+100, 2*PageSize); err != nil {
		t.Fatal(err)
	}
	b := (*[2]byte)(p.Base())
	b[1] = 7
	if err := p.Clear(); err != nil {
		t.Fatal(err)
	}
	if b[1] != 0 {
		t.Error("not cleared")
	}
	if err := unix.Mlock(p.mem[:PageSize]); err != nil {
		t.Fatal(err)
	}
	b[1] = 7
	if err := p.Clear(); err != nil {
		t.Errorf("locked memory: %v", err)
	}
	if b[1] != 0 {
		t.Error("locked memory is not cleared")
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
}
