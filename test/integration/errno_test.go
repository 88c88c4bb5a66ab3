package integration

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// store writes a value to an attribute file with one write(2).
func store(path, value string) error {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	n, err := unix.Write(fd, []byte(value))
	for errors.Is(err, unix.EINTR) { // a store that takes long ends at any signal; Go's runtime sends some
		n, err = unix.Write(fd, []byte(value))
	}
	if err == nil && n != len(value) {
		return fmt.Errorf("wrote %d bytes of %d", n, len(value))
	}
	return err
}

// wantErrno compares an error with an errno; 0 is none.
func wantErrno(t *testing.T, what string, err error, want syscall.Errno) {
	t.Helper()
	if want == 0 && err != nil || want != 0 && !errors.Is(err, want) {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

// misuse is a line of the table of what zram answers.
type misuse struct {
	file, value string
	ready       bool // the disk has a size
	want        syscall.Errno
	ours        bool // the kernel has other limits or other algorithms
}

const (
	blockDir = "sys/block/zram0/"
	classDir = "sys/class/zram-control/"
)

// misuses has a row for each line of the kernel's errno table. Rows of an
// attribute that this kernel is built without are done on our tree alone.
func misuses() []misuse {
	return append(laterMisuses(), []misuse{
		{blockDir + "disksize", "0", false, syscall.EINVAL, false},
		{blockDir + "disksize", "text", false, syscall.EINVAL, false},
		{blockDir + "disksize", "", false, 0, false}, // write(2) of nothing stores nothing
		{blockDir + "disksize", "\n", false, syscall.EINVAL, false},
		{blockDir + "disksize", "-1", false, syscall.EINVAL, false},
		{blockDir + "disksize", "17T", false, syscall.EINVAL, true},
		{blockDir + "disksize", "8M", true, syscall.EBUSY, false},
		{blockDir + "reset", "0", true, syscall.EINVAL, false},
		{blockDir + "reset", "text", true, syscall.EINVAL, false},
		{blockDir + "reset", "65536", true, syscall.ERANGE, false},
		{blockDir + "mem_limit", "none", true, syscall.EINVAL, false},
		{blockDir + "mem_limit", "16M\n", true, 0, false},
		{blockDir + "mem_limit", "0", true, 0, false},
		{blockDir + "mem_used_max", "1", true, syscall.EINVAL, false},
		{blockDir + "mem_used_max", "0\n", true, 0, false},
		{blockDir + "comp_algorithm", "lz4", true, syscall.EBUSY, false},
		{blockDir + "comp_algorithm", "lz5", false, syscall.EINVAL, false},
		{blockDir + "comp_algorithm", "lzo-rle", false, syscall.EINVAL, true},
		{blockDir + "comp_algorithm", strings.Repeat("x", 128), false, syscall.E2BIG, false},
		{blockDir + "comp_algorithm", "lz4\n", false, 0, false},
		{blockDir + "algorithm_params", "priority=4 level=3", false, syscall.EINVAL, false},
		{blockDir + "algorithm_params", "algo=lz5", false, syscall.EINVAL, false},
		{blockDir + "algorithm_params", "level", false, syscall.EINVAL, false},
		{blockDir + "algorithm_params", "dict=/no/such/file", false, syscall.EINVAL, false},
		{blockDir + "algorithm_params", "algo=lz4 level=3", false, 0, false},
		{blockDir + "compact", "1", false, syscall.EINVAL, false},
		{blockDir + "compact", "1", true, 0, false},
		{classDir + "hot_remove", "-1", true, syscall.EINVAL, false},
		{classDir + "hot_remove", "text", true, syscall.EINVAL, false},
		{classDir + "hot_remove", "777", true, syscall.ENODEV, false},
		// sysfs lets nobody write what has no store.
		{blockDir + "initstate", "1", true, syscall.EACCES, false},
		{blockDir + "mm_stat", "0", true, syscall.EACCES, false},
		{blockDir + "io_stat", "0", true, syscall.EACCES, false},
		{blockDir + "debug_stat", "0", true, syscall.EACCES, false},
		{classDir + "hot_add", "1", true, syscall.EACCES, false},
	}...)
}

// laterMisuses are those of what came to the kernel with secondary algorithms,
// memory tracking and writeback.
func laterMisuses() []misuse {
	const page = "page_index="
	rows := []misuse{
		{blockDir + "idle", "all", false, syscall.EINVAL, false},
		{blockDir + "idle", "all\n", true, 0, false},
		{blockDir + "idle", "86400", true, 0, true}, // the kernel needs ZRAM_TRACK_ENTRY_ACTIME
		{blockDir + "idle", "text", true, syscall.EINVAL, false},
		{blockDir + "idle", "-1", true, syscall.EINVAL, false},
		{blockDir + "idle", "all all", true, syscall.EINVAL, false},

		{blockDir + "recomp_algorithm", "algo=zstd priority=1", true, syscall.EBUSY, false},
		{blockDir + "recomp_algorithm", "priority=1", false, syscall.EINVAL, false},
		{blockDir + "recomp_algorithm", "algo=lz5 priority=1", false, syscall.EINVAL, false},
		{blockDir + "recomp_algorithm", "algo=lz4 priority=0", false, syscall.EINVAL, false},
		{blockDir + "recomp_algorithm", "algo=lz4 priority=4", false, syscall.EINVAL, false},
		{blockDir + "recomp_algorithm", "algo=lz4 priority=-1", false, syscall.EINVAL, false},
		{blockDir + "recomp_algorithm", "algo", false, syscall.EINVAL, false},
		{blockDir + "recomp_algorithm", "algo=" + strings.Repeat("x", 128), false, syscall.E2BIG, false},
		{blockDir + "recompress", "type=idle", false, syscall.EINVAL, false},
		{blockDir + "recompress", "type=huge", true, syscall.EINVAL, false}, // there is no secondary algorithm
		{blockDir + "recomp_algorithm", "algo=lz4 priority=1\n", false, 0, false},

		{blockDir + "backing_dev", "none", true, syscall.EBUSY, false},
		{blockDir + "backing_dev", "/no/such/file", false, syscall.ENOENT, false},
		{blockDir + "backing_dev", "/dev/null", false, syscall.ENOTBLK, false},
		{blockDir + "writeback", "type=idle", false, syscall.EINVAL, false},
		{blockDir + "writeback_limit", "text", true, syscall.EINVAL, false},
		{blockDir + "writeback_limit_enable", "text", true, syscall.EINVAL, false},
		{blockDir + "writeback_batch_size", "0", true, syscall.EINVAL, false},
		{blockDir + "writeback_batch_size", "text", true, syscall.EINVAL, false},
		{blockDir + "writeback_batch_size", "8\n", true, 0, false},
		{blockDir + "compressed_writeback", "1", true, syscall.EBUSY, false},
		{blockDir + "compressed_writeback", "maybe", false, syscall.EINVAL, false},
		{blockDir + "bd_stat", "0", true, syscall.EACCES, false},
	}
	// Without a backing device nothing else is looked at.
	for _, value := range []string{"idle", "type=huge", page + "0", page + "99999", "page_indexes=2-1"} {
		rows = append(rows, misuse{blockDir + "writeback", value, true, syscall.ENODEV, false})
	}
	return rows
}

// unreadable are the attributes that have no show.
var unreadable = strings.Fields("reset mem_limit mem_used_max compact algorithm_params idle recompress writeback")

// tryMisuses does every row on a tree of zram's files: attribute files are in
// dir, as those of zramN. ours says that it is our tree.
func tryMisuses(t *testing.T, dir, name string, ours bool) {
	t.Helper()
	at := func(file string) string {
		return filepath.Join(dir, strings.Replace(file, "zram0", name, 1))
	}
	// A kernel may be built without it.
	lacks := func(file string) bool {
		_, err := os.Stat(at(file))
		return err != nil && !ours
	}
	reset := func() { await(t, "reset", func() bool { return store(at(blockDir+"reset"), "1\n") == nil }) }
	reset()
	ready := false
	for _, c := range misuses() {
		if c.ours && !ours || lacks(c.file) {
			continue
		}
		switch {
		case c.ready && !ready:
			wantErrno(t, "disksize", store(at(blockDir+"disksize"), "1M"), 0)
		case !c.ready && ready:
			reset()
		}
		ready = c.ready
		wantErrno(t, fmt.Sprintf("%s: %s = %.20q, ready %v", name, c.file, c.value, c.ready), store(at(c.file), c.value), c.want)
	}
	for _, attribute := range unreadable {
		if lacks(blockDir + attribute) {
			continue
		}
		_, err := os.ReadFile(at(blockDir + attribute))
		wantErrno(t, name+": read "+attribute, err, syscall.EACCES)
	}

	// Open, the disk is neither reset nor removed.
	reset()
	wantErrno(t, "disksize", store(at(blockDir+"disksize"), "5000"), 0)
	for attribute, want := range map[string]string{"disksize": "8192\n", "initstate": "1\n"} {
		if got, err := os.ReadFile(at(blockDir + attribute)); err != nil || string(got) != want {
			t.Errorf("%s: %s is %q, %v, want %q", name, attribute, got, err, want)
		}
	}
	holder := open(t, at("dev/zram0"), os.O_RDONLY)
	wantErrno(t, name+": reset while open", store(at(blockDir+"reset"), "1"), syscall.EBUSY)
	wantErrno(t, name+": hot_remove while open",
		store(at(classDir+"hot_remove"), strings.TrimPrefix(name, "zram")), syscall.EBUSY)
	holder.Close()
	reset()
}

// TestErrno misuses the mounted files, and the kernel's own beside them.
func TestErrno(t *testing.T) {
	need(t)
	for _, transport := range transports {
		t.Run(transport, func(t *testing.T) {
			m := mount(t, "--size", "1M", "--transport", transport)
			tryMisuses(t, m.point, "zram0", true)

			// A disk without a size has no bytes.
			disk := open(t, m.disk(0), os.O_RDWR)
			_, err := disk.WriteAt([]byte("x"), 0)
			wantErrno(t, "write before disksize", err, syscall.ENOSPC)
			if n, err := unix.Pread(int(disk.Fd()), make([]byte, 1), 0); n != 0 || err != nil {
				t.Errorf("read before disksize: %d, %v, want end of file", n, err)
			}
		})
	}
	t.Run("kernel", func(t *testing.T) {
		id, ok := kernelZram(t)
		if !ok {
			t.Skip("needs the kernel's zram")
		}
		tryMisuses(t, "/", "zram"+id, false)
	})
}

// TestModes compares the modes of the files with those of the kernel's.
func TestModes(t *testing.T) {
	need(t)
	m := mount(t, "--size", "1M")
	modes := map[string]os.FileMode{
		"dev/zram0":                               0o600,
		"sys/class/zram-control/hot_add":          0o400,
		"sys/class/zram-control/hot_remove":       0o200,
		"sys/kernel/debug/zram/zram0/block_state": 0o400,
		"sys/kernel/debug/zsmalloc/zram0/classes": 0o444,
	}
	for mode, names := range map[os.FileMode]string{
		0o644: "disksize comp_algorithm",
		0o444: "initstate io_stat mm_stat debug_stat",
		0o200: "reset mem_limit mem_used_max compact algorithm_params",
	} {
		for _, name := range strings.Fields(names) {
			modes["sys/block/zram0/"+name] = mode
			// Where the kernel's own is there, it is asked.
			if info, err := os.Stat("/sys/block/zram0/" + name); err == nil && info.Mode().Perm() != mode {
				t.Errorf("the kernel's %s has mode %v, this table says %v", name, info.Mode().Perm(), mode)
			}
		}
	}
	for name, want := range modes {
		info, err := os.Stat(filepath.Join(m.point, name))
		if err != nil {
			t.Error(err)
		} else if got := info.Mode(); got != want {
			t.Errorf("%s has mode %v, want %v", name, got, want)
		}
	}
	for _, c := range []struct {
		what string
		err  error
		want syscall.Errno
	}{
		{"chmod", os.Chmod(m.disk(0), 0o666), syscall.EPERM},
		{"chown", os.Chown(m.disk(0), 1, 1), syscall.EPERM},
		{"unlink", os.Remove(m.disk(0)), syscall.EPERM},
		{"mkdir", os.Mkdir(m.point+"/dev/zram9", 0o700), syscall.EPERM},
		{"rename", os.Rename(m.disk(0), m.disk(9)), syscall.EPERM},
		{"truncate", os.Truncate(m.disk(0), 4096), syscall.EINVAL},
	} {
		wantErrno(t, c.what, c.err, c.want)
	}
}

// TestErrnoPasses misuses recompression and writeback where there are a
// secondary algorithm and a backing device: what this kernel may be built
// without, so only ours.
func TestErrnoPasses(t *testing.T) {
	need(t)
	m := mount(t, "--size", "1M", "--algorithm", "lz4")
	dir := scratch(t)
	file := func(name string, pages int64) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, pages*pageSize); err != nil {
			t.Fatal(err)
		}
		return path
	}
	small, none := file("small", 16), file("none", 0)
	reset := func() { await(t, "reset", func() bool { return store(m.block("reset"), "1") == nil }) }
	row := func(name, value string, want syscall.Errno) {
		t.Helper()
		wantErrno(t, name+" = "+value, store(m.block(name), value), want)
	}

	reset()
	row("backing_dev", none, syscall.EINVAL)
	row("backing_dev", dir, syscall.ENOTBLK)
	row("backing_dev", "none", 0)
	row("recomp_algorithm", "algo=zstd priority=1", 0)
	row("backing_dev", small, 0)
	row("disksize", "1M", 0)
	row("backing_dev", "none", syscall.EBUSY)
	row("recomp_algorithm", "algo=zstd priority=2", syscall.EBUSY)

	row("recompress", "threshold=4096", syscall.EINVAL)
	row("recompress", "threshold=text", syscall.EINVAL)
	row("recompress", "max_pages=-1", syscall.EINVAL)
	row("recompress", "priority=2", syscall.EINVAL)
	row("recompress", "priority=4", syscall.EINVAL)
	row("recompress", "algo=minlz", syscall.EINVAL)
	row("recompress", "type", syscall.EINVAL)
	row("recompress", "type=idle threshold=3000 max_pages=1 priority=1\n", 0)
	row("recompress", "algo=zstd", 0)

	row("writeback", "page_index=256", syscall.ERANGE)
	row("writeback", "page_indexes=0-256", syscall.ERANGE)
	row("writeback", "page_indexes=9-2", syscall.ERANGE)
	row("writeback", "page_indexes=9", syscall.EINVAL)
	row("writeback", "page_index=text", syscall.EINVAL)
	row("writeback", "nothing", syscall.EINVAL)
	row("writeback", "type=nothing", syscall.EINVAL)
	row("writeback", "idle\n", 0)
	row("writeback", "page_index=0 page_indexes=1-9 page_index=255", 0)

	// Pages that do not compress: no budget, then no room.
	b := make([]byte, 64*pageSize)
	if _, err := rand.Read(b); err != nil {
		t.Fatal(err)
	}
	writeAt(t, open(t, m.disk(0), os.O_RDWR), 0, b)
	await(t, "the end of compression", func() bool { return m.memory().huge == 64 })
	row("writeback_limit_enable", "1", 0)
	row("writeback", "huge", syscall.EIO)
	row("writeback_limit", "4", 0)
	row("writeback", "type=huge", syscall.EIO)
	if text := strings.TrimSpace(m.get("writeback_limit")); text != "0" {
		t.Errorf("writeback_limit is %s after it was used up", text)
	}
	row("writeback_limit_enable", "0", 0)
	row("writeback", "type=huge", syscall.ENOSPC)
	if bd := numbers(t, m.get("bd_stat")); len(bd) != 3 || bd[0] < 8 || bd[0] > 16 || bd[2] < bd[0] {
		t.Errorf("bd_stat is %v of a backing device of 16 pages that is full", bd)
	}
	if !bytes.Equal(readAt(t, open(t, m.disk(0), os.O_RDONLY), 0, len(b)), b) {
		t.Error("a page is not what was written")
	}
}
