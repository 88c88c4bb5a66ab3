package fusefs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zramfs/zramfs/internal/fuseconn"
)

// TestSegments: a segment shows the bytes of its part of the disk, whoever
// wrote them, and nothing of its neighbours.
func TestSegments(t *testing.T) {
	const segments, part = 3, 2 << 20
	bothCut(t, segments, func(t *testing.T, m *mounted) {
		m.set(block+"disksize", fmt.Sprint(segments*part+pageSize)) // a page that no segment has
		disk := m.open("dev/zram0", os.O_RDWR|syscall.O_DIRECT)
		var files []*os.File
		for i := range segments {
			name := fmt.Sprintf("dev/zram0.%d", i)
			if got := m.size(name); got != part {
				t.Errorf("%s has %d bytes, want %d", name, got, part)
			}
			files = append(files, m.open(name, os.O_RDWR|syscall.O_DIRECT))
		}
		names, err := os.ReadDir(m.path("dev"))
		if err != nil || len(names) != 1+segments {
			t.Errorf("dev has %v, %v", names, err)
		}
		for _, name := range []string{"dev/zram0.3", "dev/zram0.03", "dev/zram0.", "dev/zram1.0", "dev/zram0.-1"} {
			if _, err := os.Stat(m.path(name)); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("stat %s: %v", name, err)
			}
		}

		want := corpus(t, segments*part/pageSize)
		got := aligned(len(want))
		same := func(what string) {
			t.Helper()
			if _, err := disk.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s: the disk differs: %v", what, err)
			}
			clear(got)
			for i, f := range files {
				if _, err := f.ReadAt(got[:part], 0); err != nil || !bytes.Equal(got[:part], want[i*part:][:part]) {
					t.Errorf("%s: segment %d differs: %v", what, i, err)
				}
			}
		}
		if _, err := disk.WriteAt(want, 0); err != nil {
			t.Fatal(err)
		}
		same("written to the disk")
		// Each segment gets the pages of the next.
		want = slices.Concat(want[part:], want[:part])
		for i, f := range files {
			copy(got, want[i*part:][:part])
			if _, err := f.WriteAt(got[:part], 0); err != nil {
				t.Fatal(err)
			}
		}
		same("written to the segments")

		for i, f := range files {
			if n, err := f.ReadAt(got[:2*pageSize], part-pageSize); n != pageSize || err != io.EOF {
				t.Errorf("read over the end of segment %d: %d, %v", i, n, err)
			}
			if n, err := f.ReadAt(got[:pageSize], part); n != 0 || err != io.EOF {
				t.Errorf("read at the end of segment %d: %d, %v", i, n, err)
			}
			if n, err := f.WriteAt(got[:pageSize], part); n > 0 || !errors.Is(err, unix.ENOSPC) {
				t.Errorf("write at the end of segment %d: %d, %v", i, n, err)
			}
			copy(got, want[i*part:][:2*pageSize])
			if n, err := syscall.Pwrite(int(f.Fd()), got[:2*pageSize], part-pageSize); n != pageSize || err != nil {
				t.Errorf("write over the end of segment %d: %d, %v", i, n, err)
			}
			copy(want[(i+1)*part-pageSize:], want[i*part:][:pageSize])
		}
		same("written over the end")

		hole := uint32(unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE)
		for _, c := range []struct{ off, n int }{{0, 64 << 10}, {part - 12288, 1 << 30}, {1<<20 + 100, 9000}} {
			if err := unix.Fallocate(int(files[1].Fd()), hole, int64(c.off), int64(c.n)); err != nil {
				t.Errorf("punch [%d, +%d): %v", c.off, c.n, err)
			}
			clear(want[part+c.off:][:min(c.n, part-c.off)])
		}
		same("holes in segment 1")
		if err := files[0].Sync(); err != nil {
			t.Error(err)
		}

		// An open segment holds the disk as much as an open disk does.
		disk.Close()
		for _, f := range files[1:] {
			f.Close()
		}
		if err := m.put(block+"reset", "1"); !errors.Is(err, unix.EBUSY) {
			t.Errorf("reset with an open segment: %v", err)
		}
		files[0].Close()
		m.setClosed(block+"reset", "1")
		if got := m.size("dev/zram0.1"); got != 0 {
			t.Errorf("after reset a segment has %d bytes", got)
		}
		m.set("sys/class/zram-control/hot_remove", "0")
		if _, err := os.Stat(m.path("dev/zram0.1")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("a segment of no device: %v", err)
		}
		if strings.TrimSpace(m.get("sys/class/zram-control/hot_add")) != "0" {
			t.Error("no device 0 again")
		}
	})
}

// TestSegmentNodes: node ids are constants, so that they mean the same to
// every worker, and one that is no segment's is not taken for one.
func TestSegmentNodes(t *testing.T) {
	tree := &Tree{segments: MaxSegments}
	for i := range MaxSegments {
		node := uint64(1<<33 + 16 + i)
		if got := tree.segment(node); got != i || !tree.IsDisk(node) {
			t.Errorf("node %#x is segment %d", node, got)
		}
	}
	few := &Tree{segments: 2}
	for _, node := range []uint64{1 << 33, 1<<33 + 4, 1<<33 + 15, 1<<33 + 18, 2<<33 + 16, 16, 1<<33 + 1<<32 + 16} {
		if got := few.segment(node); got != -1 {
			t.Errorf("node %#x is segment %d", node, got)
		}
	}
}

func TestSegmentDoesNotAllocate(t *testing.T) {
	set, src, err := newSet()
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	d := set.Device(0)
	if err := d.SetSize(16 << 20); err != nil {
		t.Fatal(err)
	}
	tree := New(set, Options{Segments: 4})
	r := &fuseconn.Request{Op: fuseconn.Write, Node: deviceNode(0, kindSegment+3), Data: corpus(t, 1)}
	tree.Attach(r)
	allocs := testing.AllocsPerRun(500, func() {
		r.Offset = (r.Offset + pageSize) % (4 << 20)
		if n, parked, errno := tree.Serve(r); n != pageSize || parked || errno != 0 {
			t.Errorf("%d bytes, parked %v, %v", n, parked, errno)
		}
	})
	if allocs != 0 {
		t.Errorf("%v allocations", allocs)
	}
	if err := errors.Join(d.Check(), set.Close()); err != nil {
		t.Error(err)
	}
}
