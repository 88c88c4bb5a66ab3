package host

import (
	"os"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A page exists in memory or in swap, and not where nothing was ever written.
func TestExists(t *testing.T) {
	for entry, want := range map[uint64]bool{
		0:                false,
		1 << 55:          false, // soft-dirty
		1<<63 | 0x1234:   true,
		1<<62 | 3<<5 | 1: true, // swap: type 1, offset 3
	} {
		if got := exists(entry); got != want {
			t.Errorf("entry %#x: %v", entry, got)
		}
	}
	pages := int64(os.Getpagesize())
	mem, err := unix.Mmap(-1, 0, int(4*pages), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Munmap(mem) }() // ours, and whole
	mem[pages] = 1
	_ = unix.Madvise(mem, unix.MADV_PAGEOUT) // where there is swap
	start := uintptr(unsafe.Pointer(unsafe.SliceData(mem)))
	r := addressRange{start: start, end: start + uintptr(len(mem)), writable: true}
	found, err := r.present()
	if err != nil {
		t.Fatal(err)
	}
	if len(found) != 1 || found[0].start != r.start+uintptr(pages) || found[0].end != r.start+uintptr(2*pages) {
		t.Errorf("of [%#x, %#x) the second page exists, found %+v", r.start, r.end, found)
	}
}
