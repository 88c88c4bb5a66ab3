package blockdev

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/zramfs/zramfs/compress"
	"github.com/zramfs/zramfs/internal/invariants"
)

// Statistics are read, and the device is compacted and populated, while
// another thread sets and resets it: nobody touches memory that is unmapped.
func TestAttributesDuringReset(t *testing.T) {
	d := newDevice(t, 0, testConfig(t))
	var done atomic.Bool
	var readers sync.WaitGroup
	for i := range 2 {
		readers.Go(func() {
			for !done.Load() {
				for _, a := range Attributes() {
					if a.Show != nil {
						if _, err := a.Show(d, nil); err != nil && !errors.Is(err, ErrInvalid) {
							t.Error(err)
						}
					}
				}
				name := []string{"compact", "populate"}[i]
				if err := store(d, name, "1"); err != nil && !errors.Is(err, ErrInvalid) && !errors.Is(err, ErrNoDevice) {
					t.Error(err) // it began before there was a disk, or ended after
				}
			}
		})
	}
	for range 30 {
		if err := d.SetSize(64 * PageSize); err != nil {
			t.Fatal(err)
		}
		for slot := range uint64(16) {
			write(t, d, stamped(t, slot), int64(slot)*PageSize)
		}
		if err := d.Reset(); err != nil {
			t.Fatal(err)
		}
	}
	done.Store(true)
	readers.Wait()
}

// A request that is late for a disk is answered, not parked for ever, and
// touches nothing of it.
func TestRequestAfterReset(t *testing.T) {
	d := newDevice(t, 64*PageSize, testConfig(t))
	k := d.disk.Load() // as Submit has it when the reset overtakes it
	if err := d.Reset(); err != nil {
		t.Fatal(err)
	}
	for _, r := range []*Request{
		{Op: OpRead, Data: make([]byte, PageSize)},
		{Op: OpWrite, Data: make([]byte, PageSize), Off: 64 * PageSize}, // is counted as a failure
	} {
		if _, parked, err := k.submit(r); parked || !errors.Is(err, ErrNotReady) {
			t.Errorf("parked %v, %v: want ErrNotReady", parked, err)
		}
	}
}

// Check while requests run: those that come meanwhile are answered after it.
func TestCheckUnderLoad(t *testing.T) {
	for _, frames := range []int{0, 8} {
		cfg := testConfig(t)
		cfg.WriteBehind = frames
		cfg.ReserveLow, cfg.ReserveHigh = 64<<10, 128<<10 // some wait for room
		d := newDevice(t, 256*PageSize, cfg)
		var done atomic.Bool
		var writers sync.WaitGroup
		for s := range 2 {
			writers.Go(func() {
				for i := uint64(0); !done.Load(); i++ {
					off := int64(i*7+uint64(s)*128) % 250 * PageSize
					if _, err := d.Do(&Request{Op: OpWrite, Stream: s, Off: off + 100, Data: append(stamped(t, i), stamped(t, i+1)...)}); err != nil {
						t.Error(err)
						return
					}
					if i%16 == 0 {
						if _, err := d.Do(&Request{Op: OpDiscard, Stream: s, Off: off, Len: 6 * PageSize}); err != nil {
							t.Error(err)
							return
						}
					}
				}
			})
		}
		for range 50 {
			if err := store(d, "check", "1"); err != nil {
				t.Error(err)
			}
		}
		done.Store(true)
		writers.Wait()
	}
}

// Nothing that a reader of requests does on an empty disk makes a page of
// shared memory: not the counters, not the bitmap of the slot table.
func TestReadersFaultNothing(t *testing.T) {
	const size = 1 << 40
	d := newDevice(t, size, testConfig(t))
	k := d.disk.Load()
	before, err := k.region.Resident()
	if err != nil {
		t.Fatal(err)
	}
	page := make([]byte, PageSize)
	for off := int64(0); off < size; off += 8 << 30 {
		for s := range 2 {
			if _, err := d.Do(&Request{Op: OpRead, Stream: s, Off: off, Data: page}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := d.Discard(0, size); err != nil {
		t.Fatal(err)
	}
	after, err := k.region.Resident()
	if err != nil {
		t.Fatal(err)
	}
	if after != before {
		t.Errorf("reads and a discard of nothing took %d bytes", after-before)
	}
}

// A disk that cannot be made leaves no mapping behind.
func TestFailureLeaksNoMapping(t *testing.T) {
	mapped := func() (pages int64) {
		b, err := os.ReadFile("/proc/self/statm")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Sscan(string(b), &pages); err != nil {
			t.Fatal(err)
		}
		return pages
	}
	src := newSource(t)
	o := quietOptions(t, 1<<40, 0)
	o.params = compress.Params{Codec: "nothing"}
	before := mapped()
	for range 8 {
		if _, err := createDisk(src, "zram0", o); err == nil {
			t.Fatal("a disk was made with a codec that does not exist")
		}
	}
	if grown := (mapped() - before) * PageSize; grown > 1<<30 {
		t.Errorf("%d bytes of address space are left behind", grown)
	}
}

// A check of a large disk takes memory for what is stored, not for what could
// be: the machine may be short of it.
func TestCheckIsSmall(t *testing.T) {
	if invariants.Enabled {
		t.Skip("needs a build without the race detector and the invariants, which allocate")
	}
	d := newDevice(t, 1<<40, testConfig(t))
	for i := range uint64(100) {
		write(t, d, stamped(t, i), int64(i)<<30)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if err := d.Check(); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 8<<20 {
		t.Errorf("the check of 100 pages allocated %d bytes", n)
	}
}
