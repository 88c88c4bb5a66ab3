package fusefs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zramfs/zramfs/internal/fuseconn"
	"github.com/zramfs/zramfs/internal/testpages"
)

// corpus is n real pages in a row, in memory for O_DIRECT.
func corpus(t *testing.T, n int) []byte {
	pages := testpages.Pages(t)
	b := aligned(n * pageSize)
	for i := range n {
		copy(b[i*pageSize:], pages[i%len(pages)])
	}
	return b
}

func TestDisk(t *testing.T) {
	both(t, func(t *testing.T, m *mounted) {
		const size = 16 << 20
		m.set(block+"disksize", "16M")
		f := m.open("dev/zram0", os.O_RDWR|syscall.O_DIRECT)
		want := corpus(t, size/pageSize)
		got := aligned(size)
		same := func(what string) {
			t.Helper()
			if n, err := f.ReadAt(got, 0); n != size || err != nil {
				t.Fatalf("%s: read: %d, %v", what, n, err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("%s: different bytes", what)
			}
		}
		if n, err := f.WriteAt(want, 0); n != size || err != nil {
			t.Fatalf("write: %d, %v", n, err)
		}
		same("whole")
		// Parts of pages, through the same file without O_DIRECT.
		g := m.open("dev/zram0", os.O_RDWR)
		for _, c := range []struct{ off, n int }{{1, 1}, {4000, 200}, {8192, 512}, {100000, 70001}, {size - 3, 3}} {
			for i := range c.n {
				want[c.off+i] ^= 0x5a
			}
			if n, err := g.WriteAt(want[c.off:][:c.n], int64(c.off)); n != c.n || err != nil {
				t.Errorf("write %d at %d: %d, %v", c.n, c.off, n, err)
			}
		}
		same("parts")
		for _, c := range []struct {
			mode uint32
			off  int
			n    int
		}{
			{unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE, 4096, 65536},
			{unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE, 200001, 9000},
			{unix.FALLOC_FL_ZERO_RANGE | unix.FALLOC_FL_KEEP_SIZE, 1 << 20, 1 << 20},
			{unix.FALLOC_FL_ZERO_RANGE, 9 << 20, 12288},
		} {
			clear(want[c.off:][:c.n])
			if err := unix.Fallocate(int(g.Fd()), c.mode, int64(c.off), int64(c.n)); err != nil {
				t.Errorf("fallocate %x: %v", c.mode, err)
			}
		}
		same("holes")
		for _, mode := range []uint32{0, unix.FALLOC_FL_COLLAPSE_RANGE, unix.FALLOC_FL_UNSHARE_RANGE} {
			if err := unix.Fallocate(int(g.Fd()), mode, 0, 4096); !errors.Is(err, unix.EOPNOTSUPP) {
				t.Errorf("fallocate %x: %v", mode, err)
			}
		}
		if err := f.Sync(); err != nil {
			t.Errorf("fsync: %v", err)
		}
		if n, err := f.ReadAt(got[:8192], size-4096); n != 4096 || err != io.EOF {
			t.Errorf("read over the end: %d, %v", n, err)
		}
		if n, err := f.ReadAt(got[:4096], size); n != 0 || err != io.EOF {
			t.Errorf("read at the end: %d, %v", n, err)
		}
		if n, err := f.WriteAt(want[:4096], size); n > 0 || !errors.Is(err, unix.ENOSPC) {
			t.Errorf("write at the end: %d, %v", n, err)
		}
		if n, err := syscall.Pwrite(int(f.Fd()), want[size-8192:][:8192], size-4096); n != 4096 || err != nil {
			t.Errorf("write over the end: %d, %v", n, err)
		}
		copy(want[size-4096:], want[size-8192:][:4096])
		same("end")
		if got := m.size("dev/zram0"); got != size {
			t.Errorf("the disk has %d bytes now", got)
		}
		g.Close()
		f.Close()
		m.set(block+"reset", "1")
	})
}

// TestLimit: past mem_limit a write gets ENOSPC, the old page stays.
func TestLimit(t *testing.T) {
	both(t, func(t *testing.T, m *mounted) {
		m.set(block+"disksize", "32M")
		m.set(block+"mem_limit", "2M")
		f := m.open("dev/zram0", os.O_RDWR|syscall.O_DIRECT)
		defer f.Close()
		b := corpus(t, 4096)
		stored := 0
		for ; stored < 4096; stored++ {
			if _, err := f.WriteAt(b[stored*pageSize:][:pageSize], int64(stored)*pageSize); err != nil {
				if !errors.Is(err, unix.ENOSPC) {
					t.Errorf("past the limit: %v", err)
				}
				break
			}
		}
		if stored < 100 || stored == 4096 {
			t.Fatalf("%d pages fit into 2 MiB", stored)
		}
		got := aligned(stored * pageSize)
		if _, err := f.ReadAt(got, 0); err != nil || !bytes.Equal(got, b[:len(got)]) {
			t.Errorf("what was stored before: %v", err)
		}
		if m.column(block+"io_stat", 1) == "0" {
			t.Error("no failed write counted")
		}
	})
}

// TestWritersOfOnePage has writers of eighths of the same pages at once, with
// write-behind and the policy that parks.
func TestWritersOfOnePage(t *testing.T) {
	both(t, func(t *testing.T, m *mounted) {
		m.set(block+"zramfs/write_behind", "16")
		m.set(block+"zramfs/stable", "wait")
		m.set(block+"disksize", "8M")
		const pages, rounds = 8, 100
		var wg sync.WaitGroup
		for g := range 8 {
			f := m.open("dev/zram0", os.O_RDWR|syscall.O_DIRECT)
			defer f.Close()
			wg.Go(func() {
				b := aligned(512)
				for i := range rounds {
					for p := range pages {
						for j := range b {
							b[j] = byte(g*31 + i*7 + p + j/64)
						}
						if n, err := f.WriteAt(b, int64(p*pageSize+g*512)); n != 512 || err != nil {
							t.Errorf("write: %d, %v", n, err)
							return
						}
					}
				}
			})
		}
		wg.Wait()
		f := m.open("dev/zram0", os.O_RDONLY)
		defer f.Close()
		b := make([]byte, pages*pageSize)
		if _, err := io.ReadFull(f, b); err != nil {
			t.Fatal(err)
		}
		for i, c := range b {
			p, g, j := i/pageSize, i%pageSize/512, i%512
			if want := byte(g*31 + (rounds-1)*7 + p + j/64); c != want {
				t.Fatalf("page %d, writer %d, byte %d: %d, want %d", p, g, j, c, want)
			}
		}
	})
}

// TestLoop attaches a loop device, as swap does.
func TestLoop(t *testing.T) {
	if _, err := exec.LookPath("losetup"); err != nil {
		t.Skip("no losetup on this machine")
	}
	both(t, func(t *testing.T, m *mounted) {
		m.set(block+"disksize", "8M")
		out, err := exec.Command("losetup", "--find", "--show", "--direct-io=on", "-b", "4096", m.path("dev/zram0")).CombinedOutput()
		if err != nil {
			t.Skipf("no loop device: %s", out)
		}
		loop := strings.TrimSpace(string(out))
		detach := func() error { return exec.Command("losetup", "-d", loop).Run() }
		defer detach()
		sys := filepath.Join("/sys/block", filepath.Base(loop))
		for file, want := range map[string]string{
			"loop/dio": "1", "queue/logical_block_size": "4096", "queue/discard_granularity": "4096",
		} {
			if b, err := os.ReadFile(filepath.Join(sys, file)); strings.TrimSpace(string(b)) != want || err != nil {
				t.Errorf("%s is %q, %v", file, b, err)
			}
		}
		f, err := os.OpenFile(loop, os.O_RDWR|syscall.O_DIRECT, 0)
		if err != nil {
			t.Fatal(err)
		}
		b, got := corpus(t, 8<<20/pageSize), aligned(8<<20)
		if n, err := f.WriteAt(b, 0); n != len(b) || err != nil {
			t.Errorf("write: %d, %v", n, err)
		}
		if err := f.Sync(); err != nil {
			t.Error(err)
		}
		if n, err := f.ReadAt(got, 0); n != len(b) || err != nil || !bytes.Equal(b, got) {
			t.Errorf("read: %d, %v", n, err)
		}
		f.Close()
		if out, err := exec.Command("blkdiscard", loop).CombinedOutput(); err != nil {
			t.Errorf("blkdiscard: %s", out)
		}
		if got := m.column(block+"mm_stat", 0); got != "0" {
			t.Errorf("%s bytes stored after discard", got)
		}
		if err := detach(); err != nil {
			t.Error(err)
		}
	})
}

func TestServeDoesNotAllocate(t *testing.T) {
	set, src, err := newSet()
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	d := set.Device(0)
	if err := d.SetSize(16 << 20); err != nil {
		t.Fatal(err)
	}
	tree := New(set, Options{})
	r := &fuseconn.Request{Node: deviceNode(0, kindDisk), Data: corpus(t, 1)}
	tree.Attach(r)
	for _, op := range []fuseconn.Op{fuseconn.Write, fuseconn.Read, fuseconn.Sync} {
		r.Op = op
		off := int64(0)
		var failed error
		allocs := testing.AllocsPerRun(500, func() {
			r.Offset = off % (16 << 20)
			off += pageSize
			if _, parked, errno := tree.Serve(r); parked || errno != 0 {
				failed = fmt.Errorf("parked %v, %w", parked, errno)
			}
		})
		if allocs != 0 || failed != nil {
			t.Errorf("operation %d: %v allocations, %v", op, allocs, failed)
		}
	}
	if err := errors.Join(d.Check(), set.Close()); err != nil {
		t.Error(err)
	}
}
