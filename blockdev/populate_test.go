package blockdev

import (
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/zramfs/zramfs/internal/shm"
)

// missing counts the pages of n bytes at p that would fault.
func missing(t *testing.T, p unsafe.Pointer, n int64) (pages int) {
	t.Helper()
	there := make([]byte, (n+PageSize-1)/PageSize)
	if _, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(p), uintptr(n), uintptr(unsafe.Pointer(&there[0]))); errno != 0 {
		t.Fatalf("mincore: %v", errno)
	}
	for _, b := range there {
		if b&1 == 0 {
			pages++
		}
	}
	return pages
}

func missingBlocks(t *testing.T, d *Device) int {
	t.Helper()
	mem := d.disk.Load().back.blocks.mem
	return missing(t, mem.Base(), mem.Size())
}

// What counts the blocks of the backing device is there before the disk becomes
// swap, and in the next worker too: readers of requests use it, and a pass does
// while the disk cannot become quiet.
func TestBlockTableIsPopulated(t *testing.T) {
	const pages = 64
	cfg := testConfig(t)
	cfg.Ledger = make([]byte, LedgerBytes)
	cfg.Backing = backings{"dev": newMemBacking(1 << 13)}
	first, err := NewSet(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := first.HotAdd(); err != nil {
		t.Fatal(err)
	}
	d := first.Device(0)
	set(t, d, "backing_dev=dev")
	if err := d.SetSize(pages * PageSize); err != nil {
		t.Fatal(err)
	}
	if missingBlocks(t, d) == 0 {
		t.Error("the table of a disk that is not swap is populated: it may be large")
	}
	if err := d.Populate(0, pages/2*PageSize); err != nil { // a segment
		t.Fatal(err)
	}
	if n := missingBlocks(t, d); n != 0 {
		t.Errorf("%d pages of the table are missing in a disk that is to be swap", n)
	}
	fillPages(t, d, pages)
	set(t, d, "writeback=page_indexes=0-31")
	region := d.disk.Load().region
	first.Abandon()

	next, err := NewSet(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := next.Adopt(map[string]*shm.Region{"zram0": region}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "that the next worker populates its table", func() bool { return missingBlocks(t, next.Device(0)) == 0 })
	closeSet(t, next)
}

// The attribute does it for a disk that is made swap by hand.
func TestPopulateAttribute(t *testing.T) {
	d, _ := backedDevice(t, 64, 1<<13)
	set(t, d, "populate=1")
	if n := missingBlocks(t, d); n != 0 {
		t.Errorf("%d pages of the table of blocks are missing", n)
	}
}

// A buffer for the backing device does not fault when it is first used.
func TestBufferIsPopulated(t *testing.T) {
	const n = 64 << 20 // more than the heap has ready
	b := alignedBuffer(n)
	p := unsafe.Pointer(unsafe.SliceData(b))
	if uintptr(p)%PageSize != 0 {
		t.Errorf("it begins at %p", p)
	}
	if pages := missing(t, p, n); pages != 0 {
		t.Errorf("%d of %d pages are missing", pages, n/PageSize)
	}
}
