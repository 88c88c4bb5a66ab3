package backing

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// aligned gives a buffer that direct I/O takes.
func aligned(n int) []byte {
	b := make([]byte, n+BlockSize)
	off := int(-uintptr(unsafe.Pointer(unsafe.SliceData(b))) & (BlockSize - 1))
	return b[off:][:n:n]
}

func noise(n int) []byte {
	b := aligned(n)
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
	return b
}

func open(t *testing.T, path string, o Options) *File {
	t.Helper()
	f, err := Open(path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// loop attaches a loop device to a fresh file.
func loop(t *testing.T, size int64) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: a loop device")
	}
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("losetup", "--find", "--show", path).CombinedOutput()
	if err != nil {
		t.Skipf("no loop device can be had: %v: %s", err, out)
	}
	dev := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if out, err := exec.Command("losetup", "--detach", dev).CombinedOutput(); err != nil {
			t.Errorf("losetup -d %s: %v: %s", dev, err, out)
		}
	})
	return dev
}

// What is written is what is read, here and by who takes the file over.
func roundTrip(t *testing.T, f *File) {
	t.Helper()
	want := noise(8 * BlockSize)
	if n, err := f.WriteAt(want, 3*BlockSize); err != nil || n != len(want) {
		t.Fatalf("write: %d, %v", n, err)
	}
	fd, err := unix.Dup(int(f.File().Fd()))
	if err != nil {
		t.Fatal(err)
	}
	heir, err := Adopt(os.NewFile(uintptr(fd), "heir"))
	if err != nil {
		t.Fatal(err)
	}
	defer heir.Close()
	if heir.Size() != f.Size() || heir.Direct() != f.Direct() {
		t.Errorf("adopted: %d bytes, direct %v, was %d, %v", heir.Size(), heir.Direct(), f.Size(), f.Direct())
	}
	for _, f := range []*File{f, heir} {
		got := aligned(len(want))
		if n, err := f.ReadAt(got, 3*BlockSize); err != nil || n != len(got) {
			t.Fatalf("read: %d, %v", n, err)
		}
		if !bytes.Equal(got, want) {
			t.Error("reads something else than was written")
		}
	}
	if _, err := f.ReadAt(aligned(BlockSize), f.Size()); err == nil {
		t.Error("a read beyond the end has no error")
	}
}

func TestFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "made")
	f := open(t, path, Options{Create: 1<<20 - 1})
	if f.Size() != 1<<20 {
		t.Errorf("size %d", f.Size())
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("made as %v, %v", info.Mode(), err)
	}
	roundTrip(t, f)
	used := func() int64 {
		var st unix.Stat_t
		if err := unix.Fstat(int(f.File().Fd()), &st); err != nil {
			t.Fatal(err)
		}
		return st.Blocks * 512
	}
	before := used()
	if err := f.Discard(3*BlockSize, 8*BlockSize); err != nil {
		t.Skipf("no holes can be punched here: %v", err)
	}
	if after := used(); after > before-8*BlockSize {
		t.Errorf("%d bytes before the discard, %d after", before, after)
	}
}

func TestBlockDevice(t *testing.T) {
	dev := loop(t, 4<<20+512)
	f := open(t, dev, Options{})
	if f.Size() != 4<<20 || !f.Direct() {
		t.Errorf("size %d, direct %v", f.Size(), f.Direct())
	}
	roundTrip(t, f)
	if _, err := Open(dev, Options{}); !errors.Is(err, ErrBusy) {
		t.Errorf("opened twice: %v", err)
	}
}

func TestRefusals(t *testing.T) {
	dir := t.TempDir()
	empty, small, large := filepath.Join(dir, "empty"), filepath.Join(dir, "small"), filepath.Join(dir, "large")
	for path, size := range map[string]int64{empty: 0, small: BlockSize - 1, large: 1 << 20} {
		if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pipe := filepath.Join(dir, "pipe")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		path string
		o    Options
		want error
	}{
		{dir, Options{}, ErrNotBlock},
		{dir, Options{Create: 1 << 20}, ErrNotBlock},
		{"/dev/null", Options{}, ErrNotBlock},
		{pipe, Options{}, ErrNotBlock},
		{filepath.Join(dir, "none"), Options{}, os.ErrNotExist},
		{empty, Options{}, ErrSize},
		{small, Options{}, ErrSize},
		{large, Options{Create: 1 << 19}, ErrSize},
		{large, Options{Avoid: dir}, ErrRecursive},
		{dir, Options{Avoid: dir + "/"}, ErrRecursive},
	} {
		if f, err := Open(c.path, c.o); !errors.Is(err, c.want) {
			t.Errorf("%s, %+v: %v, want %v", c.path, c.o, err, c.want)
			if err == nil {
				f.Close()
			}
		}
	}
	open(t, large, Options{Create: 2 << 20, Avoid: dir + "/other"})
	if info, err := os.Stat(large); err != nil || info.Size() != 2<<20 {
		t.Errorf("grown to %v, %v", info.Size(), err)
	}
	if _, err := Open(large, Options{}); !errors.Is(err, ErrBusy) {
		t.Errorf("opened twice: %v", err)
	}
}

// A loop device over a file of the mount would wait for itself.
func TestLoopOverTheMount(t *testing.T) {
	dev := loop(t, 1<<20)
	out, err := exec.Command("losetup", "--noheadings", "--output", "BACK-FILE", dev).Output()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dev, Options{Avoid: filepath.Dir(strings.TrimSpace(string(out)))}); !errors.Is(err, ErrRecursive) {
		t.Errorf("opened: %v", err)
	}
}

// A file that was released is another's to use, though the descriptor is open still
// and what it takes could not be given back.
func TestReleaseWithoutDiscard(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, noise(4*BlockSize), 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(path) // of which nothing can be discarded
	if err != nil {
		t.Fatal(err)
	}
	f, err := Adopt(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.claim(path, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path, Options{}); !errors.Is(err, ErrBusy) {
		t.Fatalf("opened by two: %v", err)
	}
	f.Release()
	open(t, path, Options{})
}
