package integration

import (
	"bytes"
	"crypto/rand"
	"os"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestMemLimit lowers mem_limit below what is stored. Writes get ENOSPC, are
// counted, and leave the old content; reads, discards and pages that take no
// memory go on; with the limit gone everything is as before.
func TestMemLimit(t *testing.T) {
	need(t)
	for _, frames := range []string{"0", "16"} {
		t.Run("write-behind="+frames, func(t *testing.T) {
			m := mount(t, "--size", "64M", "--write-behind", frames)
			disk := open(t, m.disk(0), os.O_RDWR|unix.O_DIRECT)
			const count = 2000
			pages := aligned(t, count*pageSize)
			copy(pages, corpus(t))
			writeAt(t, disk, 0, pages)
			// Nothing that is free already will do for a page that does not compress.
			other := aligned(t, pageSize)
			if _, err := rand.Read(other); err != nil {
				t.Fatal(err)
			}
			await(t, "the end of compression", func() bool { return m.stat("zramfs/memory_stat", "staged") == 0 })

			m.set("mem_limit", "1M")
			if mem := m.memory(); mem.limit != 1<<20 || mem.used < 2<<20 {
				t.Fatalf("%+v: the limit is not below what is stored", mem)
			}
			const tries = 5
			for i := range int64(tries) {
				// Pages that are there, and pages that are not.
				_, err := disk.WriteAt(other, (i*997+i%2*count)*pageSize)
				wantErrno(t, "write beyond the limit", err, syscall.ENOSPC)
			}
			if io := numbers(t, m.get("io_stat")); io[0] != 0 || io[1] != tries {
				t.Errorf("io_stat is %v after %d writes that failed", io, tries)
			}
			if !bytes.Equal(readAt(t, disk, 0, len(pages)), pages) {
				t.Error("a write that failed changed a page")
			}
			zero := aligned(t, pageSize)
			writeAt(t, disk, pageSize, zero)
			copy(pages[pageSize:], zero)

			// Enough discarded, there is room again.
			if err := unix.Fallocate(int(disk.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 100*pageSize, (count-100)*pageSize); err != nil {
				t.Fatal(err)
			}
			clear(pages[100*pageSize:])
			m.set("compact", "1")
			writeAt(t, disk, 7*pageSize, other)
			copy(pages[7*pageSize:], other)
			m.set("mem_limit", "0")
			for i := int64(200); i < 1000; i++ {
				writeAt(t, disk, i*pageSize, other)
				copy(pages[i*pageSize:], other)
			}
			if !bytes.Equal(readAt(t, disk, 0, len(pages)), pages) {
				t.Error("the disk is not what was written")
			}
		})
	}
}
