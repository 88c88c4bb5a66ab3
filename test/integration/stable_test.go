package integration

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/zramfs/zramfs/internal/uring"
)

// hot are the ranges that are written while their buffers change, in bytes:
// single pages, several, and a part of one. Everything else is known content.
var hot = []struct{ off, n int64 }{
	{2 * pageSize, pageSize}, {4 * pageSize, pageSize}, {6 * pageSize, pageSize}, {8 * pageSize, 4 * pageSize},
	{13 * pageSize, 3 * pageSize}, {18*pageSize + 512, 1024}, {18*pageSize + 2560, 512},
}

const (
	hotDisk = 32 * pageSize // what the test looks at
	hotMax  = 4 * pageSize
)

// TestStable lets writers change their buffers while these are written, with
// write-behind on and a codec that takes its time, under each policy. Each
// must have given its answer, and nothing but the written ranges may change.
func TestStable(t *testing.T) {
	need(t)
	for _, c := range []struct{ policy, counter string }{
		{"snapshot", "snapshots"}, {"wait", "waits"}, {"refuse", "refusals"},
	} {
		for _, way := range []string{"pwrite", "io_uring"} {
			t.Run(c.policy+"/"+way, func(t *testing.T) {
				m := mount(t, "--size", "1M", "--write-behind", "24", "--stable", c.policy, "--algorithm", "deflate(level=9)")
				m.set("zramfs/stable_stat", "1") // audit every view
				known := bytes.Clone(corpus(t)[:hotDisk])
				disk := open(t, m.disk(0), os.O_RDWR|unix.O_DIRECT)
				around := aligned(t, hotDisk)
				copy(around, known)
				writeAt(t, disk, 0, around)
				if err := disk.Sync(); err != nil {
					t.Fatal(err)
				}

				var refusals atomic.Int64
				mutating(t, 2, func(writer int, buffer []byte) {
					r := rand.New(rand.NewPCG(uint64(writer), 7))
					answer := func(want, got int, err error) {
						switch {
						case c.policy == "refuse" && errors.Is(err, unix.EBUSY):
							refusals.Add(1)
						case err != nil || got != want:
							t.Errorf("write of %d bytes: %d, %v", want, got, err)
						}
					}
					if way == "pwrite" {
						hammerPlain(disk, r, buffer, answer)
					} else {
						hammerURing(t, disk, r, buffer, answer)
					}
				})
				for _, h := range hot {
					first, second := readAt(t, disk, h.off, int(h.n)), readAt(t, disk, h.off, int(h.n))
					if !bytes.Equal(first, second) {
						t.Errorf("two reads at %d do not agree", h.off)
					}
					wantPattern(t, h.off, first)
					copy(known[h.off:], first)
				}
				if !bytes.Equal(readAt(t, disk, 0, hotDisk), known) {
					t.Error("something was damaged beside what was written")
				}
				stat := m.get("zramfs/stable_stat")
				t.Logf("%d refused", refusals.Load())
				t.Log(stat)
				if m.stat("zramfs/stable_stat", c.counter) == 0 {
					t.Errorf("no write met a page under compression: %s is 0", c.counter)
				}
				if n := m.stat("zramfs/stable_stat", "refusals"); n != refusals.Load() {
					t.Errorf("%d refusals counted, %d seen", n, refusals.Load())
				}
				if m.stat("zramfs/stable_stat", "audited") == 0 {
					t.Error("no view was audited")
				}
			})
		}
	}
}

// hammerPlain writes the hot ranges, one at a time.
func hammerPlain(disk *os.File, r *rand.Rand, buffer []byte, answer func(int, int, error)) {
	for range long(3000, 300000) {
		h := hot[r.IntN(len(hot))]
		n, err := disk.WriteAt(buffer[:h.n], h.off)
		answer(int(h.n), n, err)
	}
}

// hammerURing writes them several at a time.
func hammerURing(t *testing.T, disk *os.File, r *rand.Rand, buffer []byte, answer func(int, int, error)) {
	const depth, opWrite = 8, 23 // IORING_OP_WRITE
	runtime.LockOSThread()       // the ring is this thread's
	defer runtime.UnlockOSThread()
	ring, err := uring.New(depth)
	if err != nil {
		t.Skipf("needs io_uring: %v", err)
	}
	defer ring.Close()
	for range long(600, 60000) {
		for range depth {
			h := hot[r.IntN(len(hot))]
			e := ring.Next() // the buffer is not Go's, so nothing needs to keep it alive
			e.Op, e.FD, e.Off, e.User = opWrite, int32(disk.Fd()), uint64(h.off), uint64(h.n)
			e.Addr, e.Len = uint64(uintptr(unsafe.Pointer(&buffer[0]))), uint32(h.n)
		}
		for finished := 0; finished < depth; {
			if errno := ring.Enter(1); errno != 0 {
				t.Error(errno)
				return
			}
			for res, ok := ring.Reap(); ok; res, ok = ring.Reap() {
				var err error
				if res.N < 0 {
					err = unix.Errno(-res.N)
				}
				answer(int(res.User), int(max(0, res.N)), err)
				finished++
			}
		}
	}
}

// mutating runs writers, each with a buffer that somebody keeps changing.
func mutating(t *testing.T, writers int, write func(writer int, buffer []byte)) {
	t.Helper()
	var done sync.WaitGroup
	for w := range writers {
		buffer := aligned(t, hotMax)
		mutate(buffer, 0)
		var stop atomic.Bool
		var mutator sync.WaitGroup
		mutator.Go(func() {
			for round := byte(0); !stop.Load(); round++ {
				mutate(buffer, round)
			}
		})
		done.Go(func() {
			defer mutator.Wait()
			defer stop.Store(true)
			write(w, buffer)
		})
	}
	done.Wait()
}

// mutate gives every byte a new value that still says where it is in its 16:
// a byte that comes from elsewhere is seen. Neighbours change alike, so that
// the page compresses, to another length each time.
func mutate(b []byte, round byte) {
	for i := range b {
		b[i] = byte(i)<<4 | (round*byte(1+i>>7)+byte(i>>(4+round&3)))&15
	}
}

func wantPattern(t *testing.T, off int64, b []byte) {
	t.Helper()
	for i, v := range b {
		if v>>4 != byte(i)&15 {
			t.Fatalf("byte %d of what was written at %d is %#x: nobody wrote that", i, off, v)
		}
	}
}

// TestStableMapped changes a memory-mapped file on a file system on the device
// while the kernel writes it back.
func TestStableMapped(t *testing.T) {
	need(t, "/dev/loop-control", "mkfs.ext4", "e2fsck")
	const pages = 64
	for _, policy := range []string{"snapshot", "wait"} {
		t.Run(policy, func(t *testing.T) {
			m := mount(t, "--size", "64M", "--write-behind", "24", "--stable", policy, "--algorithm", "deflate(level=9)")
			m.set("zramfs/stable_stat", "1")
			loop := m.attach()
			run(t, "mkfs.ext4", "-q", "-F", "-O", "^has_journal", loop)
			dir := filepath.Join(scratch(t), "fs")
			mountFS(t, "ext4", loop, dir)
			sums := fill(t, filepath.Join(dir, "beside"), 4<<20)

			file, err := os.OpenFile(filepath.Join(dir, "mapped"), os.O_RDWR|os.O_CREATE, 0o600)
			if err != nil {
				t.Fatal(err)
			}
			defer file.Close()
			if err := file.Truncate(pages * pageSize); err != nil {
				t.Fatal(err)
			}
			mem, err := unix.Mmap(int(file.Fd()), 0, pages*pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
			if err != nil {
				t.Fatal(err)
			}
			var stop atomic.Bool
			var mutators sync.WaitGroup
			for i := range 2 {
				part := mem[i*len(mem)/2 : (i+1)*len(mem)/2]
				mutators.Go(func() {
					for round := byte(0); !stop.Load(); round++ {
						mutate(part, round)
					}
				})
			}
			for range long(100, 5000) {
				if err := unix.Msync(mem, unix.MS_SYNC); err != nil {
					t.Error(err)
					break
				}
			}
			stop.Store(true)
			mutators.Wait()
			last := bytes.Clone(mem)
			if err := unix.Munmap(mem); err != nil {
				t.Error(err)
			}
			if err := file.Close(); err != nil {
				t.Error(err)
			}
			run(t, "umount", dir)
			run(t, "e2fsck", "-f", "-n", loop)
			mountFS(t, "ext4", loop, dir)
			verify(t, filepath.Join(dir, "beside"), sums)
			for range 2 {
				if got, err := os.ReadFile(filepath.Join(dir, "mapped")); err != nil || !bytes.Equal(got, last) {
					t.Errorf("the mapped file is not what was in memory last (%v)", err)
				}
			}
			run(t, "umount", dir)
			t.Log(m.get("zramfs/stable_stat"))
		})
	}
}
