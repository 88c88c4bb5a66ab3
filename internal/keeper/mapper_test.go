package keeper

import (
	"encoding/binary"
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zramfs/zramfs/internal/shm"
)

// A worker that waits has in its page tables all that exists, and has made
// nothing of holes.
func TestMapperMapsWhatExists(t *testing.T) {
	const size = 32 << 20
	made, err := shm.OpenSource().Create("test", size)
	if err != nil {
		t.Fatal(err)
	}
	defer made.Close()
	exist := func(page int64) bool { return page < 700 || page >= 3000 && page < 3100 || page == size/pageSize-1 }
	for page := range int64(size / pageSize) {
		if exist(page) {
			if err := made.Populate(page*pageSize, pageSize); err != nil {
				t.Fatal(err)
			}
		}
	}
	before, err := made.Resident()
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Dup(int(made.File().Fd()))
	if err != nil {
		t.Fatal(err)
	}
	r, err := shm.Adopt("test", os.NewFile(uintptr(fd), "test"))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	m := startMapper()
	m.add(r)
	m.settle()
	m.stop()
	entries := make([]byte, size/pageSize*8)
	table, err := os.Open("/proc/self/pagemap")
	if err != nil {
		t.Fatal(err)
	}
	defer table.Close()
	if _, err := table.ReadAt(entries, int64(uintptr(r.Base()))/pageSize*8); err != nil {
		t.Fatal(fmt.Errorf("read page tables: %w", err))
	}
	for page := range int64(size / pageSize) {
		if mapped := binary.NativeEndian.Uint64(entries[page*8:])>>63 != 0; mapped != exist(page) {
			t.Fatalf("page %d: mapped %t, exists %t", page, mapped, exist(page))
		}
	}
	m.finish()
	if after, err := made.Resident(); err != nil || after != before {
		t.Errorf("%d bytes exist, there were %d: %v", after, before, err)
	}
}
