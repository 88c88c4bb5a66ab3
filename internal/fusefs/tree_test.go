package fusefs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/zramfs/zramfs/blockdev"
)

func TestTree(t *testing.T) {
	both(t, func(t *testing.T, m *mounted) {
		want := map[string]fs.FileMode{
			"dev/zram0":                         0o600,
			"sys/class/zram-control/hot_add":    0o400,
			"sys/class/zram-control/hot_remove": 0o200,
		}
		dirs := map[blockdev.Dir]string{
			blockdev.DirBlock:   "sys/block/zram0/",
			blockdev.DirZramfs:  "sys/block/zram0/zramfs/",
			blockdev.DirClasses: "sys/kernel/debug/zsmalloc/zram0/",
			blockdev.DirDebug:   "sys/kernel/debug/zram/zram0/",
		}
		for _, a := range append(blockdev.Attributes(), slowRows()...) {
			want[dirs[a.Dir]+a.Name] = fs.FileMode(a.Mode)
		}
		for _, name := range []string{
			block + "disksize", block + "initstate", block + "reset", block + "comp_algorithm",
			block + "algorithm_params", block + "mem_limit", block + "mem_used_max", block + "compact",
			block + "io_stat", block + "mm_stat", block + "debug_stat",
			block + "zramfs/stable_stat", block + "zramfs/stream_stat",
			"sys/kernel/debug/zsmalloc/zram0/classes", "sys/kernel/debug/zram/zram0/block_state",
		} {
			if _, ok := want[name]; !ok {
				t.Errorf("no attribute %s", name)
			}
		}
		seen := 0
		err := filepath.WalkDir(m.dir, func(path string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return err
			}
			name, _ := filepath.Rel(m.dir, path)
			info, err := e.Info()
			if err != nil {
				return err
			}
			mode, ok := want[name]
			if !ok || info.Mode() != mode {
				t.Errorf("%s has mode %v, want %v (%v)", name, info.Mode(), mode, ok)
			}
			size := int64(pageSize)
			if name == "dev/zram0" || strings.HasPrefix(name, "sys/kernel/debug/") {
				size = 0
			}
			st := info.Sys().(*syscall.Stat_t)
			if info.Size() != size || st.Uid != uint32(os.Getuid()) || st.Gid != uint32(os.Getgid()) {
				t.Errorf("%s: %d bytes, owner %d:%d", name, info.Size(), st.Uid, st.Gid)
			}
			seen++
			return nil
		})
		if err != nil || seen != len(want) {
			t.Errorf("%d files, want %d: %v", seen, len(want), err)
		}
		var st unix.Statfs_t
		if err := unix.Statfs(m.dir, &st); err != nil || st.Bsize != 4096 || st.Frsize != 4096 {
			t.Errorf("statfs: %+v, %v", st, err)
		}
		for name, err := range map[string]error{
			"create": func() error { _, err := os.Create(m.path(block + "typo")); return err }(),
			"mkdir":  os.Mkdir(m.path("dev/zram1"), 0o700),
			"remove": os.Remove(m.path("dev/zram0")),
			"rename": os.Rename(m.path("dev/zram0"), m.path("dev/zram1")),
			"chmod":  os.Chmod(m.path("dev/zram0"), 0o666),
		} {
			if !errors.Is(err, fs.ErrPermission) {
				t.Errorf("%s: %v", name, err)
			}
		}
		for _, name := range []string{"dev/zram1", "dev/zram00", "dev/zram", "dev/zram-1", "dev/zram4096", "sys/block/zram9/mm_stat"} {
			if _, err := os.Stat(m.path(name)); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("stat %s: %v", name, err)
			}
		}
		if _, err := unix.Getxattr(m.path("dev/zram0"), "user.x", nil); !errors.Is(err, unix.EOPNOTSUPP) {
			t.Errorf("getxattr: %v", err)
		}
	})
}

// TestErrno is the kernel's table of misuses, through write(2) and open(2).
func TestErrno(t *testing.T) {
	both(t, func(t *testing.T, m *mounted) {
		check := func(name, value string, want syscall.Errno) {
			t.Helper()
			if err := m.put(name, value); !errors.Is(err, want) {
				t.Errorf("%s to %s: %v, want %v", value, name, err, want)
			}
		}
		const remove = "sys/class/zram-control/hot_remove"
		check(block+"disksize", "0", unix.EINVAL)
		check(block+"disksize", "big", unix.EINVAL)
		check(block+"reset", "0", unix.EINVAL)
		check(block+"mem_limit", "none", unix.EINVAL)
		check(block+"mem_used_max", "1", unix.EINVAL)
		check(block+"comp_algorithm", "rot13", unix.EINVAL)
		check(block+"algorithm_params", "level", unix.EINVAL)
		check(block+"comp_algorithm", strings.Repeat("a", 128), unix.E2BIG)
		check(block+"compact", "1", unix.EINVAL)
		check(remove, "7", unix.ENODEV)
		check(remove, "-1", unix.EINVAL)
		check(remove, "zram0", unix.EINVAL)
		check(block+"mm_stat", "1", unix.EACCES)
		if _, err := os.ReadFile(m.path(block + "reset")); !errors.Is(err, unix.EACCES) {
			t.Errorf("read of reset: %v", err)
		}
		if _, err := os.OpenFile(m.path(block+"mem_limit"), os.O_RDWR, 0); !errors.Is(err, unix.EACCES) {
			t.Errorf("mem_limit for both: %v", err)
		}
		m.set(block+"disksize", "64M")
		check(block+"disksize", "64M", unix.EBUSY)
		check(block+"comp_algorithm", "zstd", unix.EBUSY)
		f := m.open("dev/zram0", os.O_RDONLY)
		check(block+"reset", "1", unix.EBUSY)
		check(remove, "0", unix.EBUSY)
		f.Close()
	})
}

// TestLife sets a size, resets, and sees that the size of the disk follows.
func TestLife(t *testing.T) {
	both(t, func(t *testing.T, m *mounted) {
		m.want(block+"initstate", "0")
		f := m.open("dev/zram0", os.O_RDWR)
		b := make([]byte, 4096)
		if n, err := f.ReadAt(b, 0); n != 0 || err != io.EOF {
			t.Errorf("read without a size: %d, %v", n, err)
		}
		if n, err := f.WriteAt(b, 0); n > 0 || !errors.Is(err, unix.ENOSPC) {
			t.Errorf("write without a size: %d, %v", n, err)
		}
		f.Close()
		for i := range 3 {
			size := int64(1+i) << 20
			m.set(block+"disksize", fmt.Sprint(size-100)) // rounded up
			m.want(block+"disksize", fmt.Sprint(size))
			m.want(block+"initstate", "1")
			if got := m.size("dev/zram0"); got != size {
				t.Errorf("disk has %d bytes, want %d", got, size)
			}
			f := m.open("dev/zram0", os.O_RDWR|os.O_TRUNC)
			if end, err := f.Seek(0, io.SeekEnd); end != size || err != nil {
				t.Errorf("end is %d, %v", end, err)
			}
			if err := f.Truncate(size / 2); !errors.Is(err, unix.EINVAL) {
				t.Errorf("truncate: %v", err)
			}
			f.Close()
			m.set(block+"reset", "1")
			m.want(block+"initstate", "0")
			if got := m.size("dev/zram0"); got != 0 {
				t.Errorf("disk has %d bytes after reset", got)
			}
		}
	})
}

// TestAttributeFile reads and writes as sysfs lets one.
func TestAttributeFile(t *testing.T) {
	both(t, func(t *testing.T, m *mounted) {
		f := m.open(block+"disksize", os.O_RDWR)
		defer f.Close()
		read := func(n int) string {
			b := make([]byte, n)
			n, _ = f.Read(b)
			return string(b[:n])
		}
		if got := read(10); got != "0\n" {
			t.Errorf("disksize is %q", got)
		}
		if got := read(10); got != "" {
			t.Errorf("after the end: %q", got)
		}
		// A store per write, wherever it goes.
		if n, err := f.Write([]byte("1M")); n != 2 || err != nil {
			t.Errorf("store: %d, %v", n, err)
		}
		if n, err := f.Write([]byte("1M")); n > 0 || !errors.Is(err, unix.EBUSY) {
			t.Errorf("second store: %d, %v", n, err)
		}
		// From the start anew; in pieces as it was.
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			t.Error(err)
		}
		if got := read(4) + read(100); got != "1048576\n" {
			t.Errorf("disksize is %q", got)
		}
		a := m.open(block+"mem_limit", os.O_WRONLY|os.O_APPEND)
		if _, err := a.WriteString("1M\n"); err != nil {
			t.Errorf("append: %v", err)
		}
		a.Close()
		if got := m.column(block+"mm_stat", 3); got != "1048576" {
			t.Errorf("mem_limit is %s", got)
		}
	})
}

func TestHotAdd(t *testing.T) {
	both(t, func(t *testing.T, m *mounted) {
		const dir = "sys/class/zram-control/"
		list := func() []string {
			var names []string
			for _, dir := range []string{"dev", "sys/block", "sys/kernel/debug/zram", "sys/kernel/debug/zsmalloc"} {
				entries, err := os.ReadDir(m.path(dir))
				if err != nil {
					t.Fatal(err)
				}
				var here []string
				for _, e := range entries {
					here = append(here, e.Name())
				}
				if names != nil && !slices.Equal(names, here) {
					t.Errorf("%s has %v, others %v", dir, here, names)
				}
				names = here
			}
			return names
		}
		if _, err := os.Stat(m.path("dev/zram1")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("zram1 before: %v", err)
		}
		f := m.open(dir+"hot_add", os.O_RDONLY)
		b := make([]byte, 1)
		if n, err := f.ReadAt(b, 0); n != 1 || b[0] != '1' {
			t.Errorf("hot_add gives %q, %v", b, err)
		}
		rest, err := io.ReadAll(f)
		if string(rest) != "1\n" || err != nil {
			t.Errorf("hot_add, again on the same file: %q, %v", rest, err)
		}
		f.Close()
		m.want(dir+"hot_add", "2")
		if got := list(); !slices.Equal(got, []string{"zram0", "zram1", "zram2"}) {
			t.Errorf("devices %v", got)
		}
		m.set("sys/block/zram1/disksize", "1M")
		if m.size("dev/zram1") != 1<<20 || m.size("dev/zram2") != 0 || m.size("dev/zram0") != 0 {
			t.Error("sizes are mixed up")
		}
		old := m.open("sys/block/zram1/disksize", os.O_RDONLY)
		m.set(dir+"hot_remove", "1")
		if _, err := old.ReadAt(b, 0); !errors.Is(err, unix.ENODEV) {
			t.Errorf("attribute of a removed device: %v", err)
		}
		old.Close()
		if _, err := os.Stat(m.path("sys/block/zram1/disksize")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("zram1 after: %v", err)
		}
		if got := list(); !slices.Equal(got, []string{"zram0", "zram2"}) {
			t.Errorf("devices %v", got)
		}
		m.want(dir+"hot_add", "1")
		m.want("sys/block/zram1/disksize", "0")
		m.set("sys/block/zram1/disksize", "2M")
		d := m.open("dev/zram1", os.O_RDWR)
		if n, err := d.WriteAt([]byte("x"), 2<<20-1); n != 1 || err != nil {
			t.Errorf("write to the last byte of the new zram1: %v", err)
		}
		d.Close()
	})
}

func TestErrnoOf(t *testing.T) {
	for _, c := range []struct {
		err  error
		want syscall.Errno
	}{
		{nil, 0},
		{blockdev.ErrNoSpace, unix.ENOSPC},
		{fmt.Errorf("reset zram0: %w", blockdev.ErrBusy), unix.EBUSY},
		{fmt.Errorf("%w: %w", blockdev.ErrCorrupt, io.ErrUnexpectedEOF), unix.EIO},
		{fmt.Errorf("populate: %w", unix.ENOMEM), unix.ENOMEM},
		{errors.New("anything"), unix.EIO},
	} {
		if got := errnoOf(c.err); got != c.want {
			t.Errorf("%v: %v, want %v", c.err, got, c.want)
		}
	}
}

func TestNodesAreDistinct(t *testing.T) {
	rows := newRows(append(blockdev.Attributes(), blockdev.Attributes()...))
	if got, want := len(rows.byKind), 2*len(blockdev.Attributes()); got != want {
		t.Errorf("%d nodes for %d attributes", got, want)
	}
	for kind := range rows.byKind {
		if _, k := split(deviceNode(7, kind)); k != kind {
			t.Errorf("kind %x comes back as %x", kind, k)
		}
	}
}

// Looking an attribute up leaves no garbage: it is collected rarely, and lies in
// memory that was populated for it.
func TestLookupDoesNotAllocate(t *testing.T) {
	set, src, err := newSet()
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	tree := New(set, Options{})
	h := fuse.InHeader{NodeId: deviceNode(0, kindBlock)}
	var out fuse.EntryOut
	var last fuse.Status
	allocs := testing.AllocsPerRun(100, func() {
		for _, name := range []string{"mm_stat", "io_stat", nameZramfs, "nothing"} {
			last = tree.Lookup(nil, &h, name, &out)
		}
	})
	if allocs > 0 || last != fuse.ENOENT {
		t.Errorf("%v allocations for four lookups, the last %v", allocs, last)
	}
	if err := errors.Join(set.Device(0).Check(), set.Close()); err != nil {
		t.Error(err)
	}
}
