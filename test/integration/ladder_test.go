package integration

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestLadder lowers mem_limit below what a disk of holes takes: the ladder gets
// it there with nobody asking, counts what it did, and no page is another. Then
// a write at the limit gets the room that is made for it.
func TestLadder(t *testing.T) {
	m := mount(t, "--size", "64M")
	disk := open(t, m.disk(0), os.O_RDWR|unix.O_DIRECT)
	const count = 4000
	pages := aligned(t, count*pageSize)
	copy(pages, corpus(t))
	writeAt(t, disk, 0, pages)
	for i := int64(0); i < count; i++ {
		if i%4 != 0 {
			if err := unix.Fallocate(int(disk.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, i*pageSize, pageSize); err != nil {
				t.Fatal(err)
			}
			clear(pages[i*pageSize:][:pageSize])
		}
	}
	limit := m.memory().used * 7 / 10 &^ (pageSize - 1)
	m.set("mem_limit", fmt.Sprint(limit))
	await(t, "the limit to be kept", func() bool { return m.memory().used <= limit })
	await(t, "a count of it", func() bool { return limitFreed(t, m, "compact") > 0 })
	if !bytes.Equal(readAt(t, disk, 0, len(pages)), pages) {
		t.Error("a page is not what it was")
	}

	m.set("limit_policy", "compact,wait=1m")
	m.set("mem_limit", fmt.Sprint(m.memory().used))
	if got := m.get("zramfs/limit_policy"); got != "compact,wait=1m0s\n" {
		t.Errorf("limit_policy is %q", got)
	}
	writeAt(t, disk, pageSize, pages[:pageSize]) // waits, if it must, for what compact has left to give
	copy(pages[pageSize:], pages[:pageSize])
	if !bytes.Equal(readAt(t, disk, 0, len(pages)), pages) {
		t.Error("a page is not what it was")
	}
	m.check()
}

// limitFreed is how many pages a rung has freed.
func limitFreed(t *testing.T, m *mnt, rung string) (freed int64) {
	t.Helper()
	for line := range strings.Lines(m.get("zramfs/limit_stat")) {
		if f := strings.Fields(line); f[0] == rung {
			if _, err := fmt.Sscan(f[2], &freed); err != nil {
				t.Fatal(err)
			}
		}
	}
	return freed
}
