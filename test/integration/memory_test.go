package integration

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// pss is the memory of keeper and worker in bytes, what they share counted once.
func (m *mnt) pss() (sum int64) {
	m.t.Helper()
	for _, name := range []string{"keeper_pid", "worker_pid"} {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", m.stat("zramfs/daemon_stat", name)))
		if err != nil {
			m.t.Fatal(err)
		}
		_, rest, _ := strings.Cut(string(text), "\nPss:")
		kib, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
		if err != nil {
			m.t.Fatal(err)
		}
		sum += kib << 10
	}
	return sum
}

// TestMemoryComesBack discards what was written, and resets: the memory of the
// processes falls, but for the reserve.
func TestMemoryComesBack(t *testing.T) {
	need(t)
	const size = 96 << 20
	m := mount(t, "--size", fmt.Sprint(size), "--algorithm", "none")
	disk := open(t, m.disk(0), os.O_RDWR)
	page := corpus(t)[:1<<20]
	resident := func() int64 { return m.stat("zramfs/memory_stat", "resident") }
	emptyResident, emptyPss := resident(), m.pss()
	// What may stay: half of what was written would be too much.
	back := func(what string) {
		t.Helper()
		const most = size / 4
		await(t, what, func() bool { return resident()-emptyResident < most && m.pss()-emptyPss < most })
	}
	fillUp := func() {
		t.Helper()
		for off := int64(0); off < size; off += int64(len(page)) {
			writeAt(t, disk, off, page)
		}
		if r, p := resident()-emptyResident, m.pss()-emptyPss; r < size/2 || p < size/2 {
			t.Errorf("%d bytes more in the device and %d in the processes for %d that do not compress", r, p, size)
		}
	}
	fillUp()
	if err := unix.Fallocate(int(disk.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, size); err != nil {
		t.Fatal(err)
	}
	back("memory after a discard of everything")
	m.check()

	fillUp()
	disk.Close()
	await(t, "reset", func() bool { return store(m.block("reset"), "1") == nil })
	if p := m.pss() - emptyPss; p > size/4 {
		await(t, "memory after reset", func() bool { return m.pss()-emptyPss < size/4 })
	}
	m.set("disksize", "1M")
}

// TestCompact makes holes in the pool: compact returns pages, every page stays
// what it was.
func TestCompact(t *testing.T) {
	need(t)
	m := mount(t, "--size", "64M")
	disk := open(t, m.disk(0), os.O_RDWR)
	pages := corpus(t)[:4096*pageSize]
	writeAt(t, disk, 0, pages)
	for i := int64(0); i < 4096; i++ {
		if i%4 != 0 {
			if err := unix.Fallocate(int(disk.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, i*pageSize, pageSize); err != nil {
				t.Fatal(err)
			}
			clear(pages[i*pageSize : (i+1)*pageSize])
		}
	}
	before := m.memory()
	m.set("compact", "1")
	after := m.memory()
	if freed := before.used - after.used; freed <= 0 || after.compacted != freed/pageSize {
		t.Errorf("compact: %d bytes less in use, pages_compacted %d", freed, after.compacted)
	}
	if got := readAt(t, disk, 0, len(pages)); !bytes.Equal(got, pages) {
		t.Error("compact changed a page")
	}
}

// TestSteady loads a device through a loop device: once warm, the worker's
// collector does not run and nobody starts a thread.
func TestSteady(t *testing.T) {
	need(t, "fio", "/dev/loop-control")
	m := mount(t, "--size", "128M", "--write-behind", "32")
	loop := m.attach()
	load := func(seed int) {
		t.Helper()
		for i, target := range []string{m.disk(0), loop} {
			for _, bs := range []string{"4k", "1m"} {
				run(t, "fio", "--name=steady", "--filename="+target, "--size=64M", "--offset="+fmt.Sprint(i*64<<20), "--direct=1", "--ioengine=libaio",
					"--iodepth=32", "--rw=randrw", "--bs="+bs, "--numjobs=2", "--randseed="+fmt.Sprint(seed), "--buffer_compress_percentage=50")
			}
		}
	}
	facts := func() string {
		var b strings.Builder
		for line := range strings.Lines(m.get("zramfs/memory_stat")) {
			for _, name := range []string{"worker_gc_cycles", "worker_threads", "keeper_threads"} {
				if strings.HasPrefix(line, name+" ") {
					b.WriteString(line)
				}
			}
		}
		return b.String()
	}
	load(1)
	before, reads := facts(), m.get("zramfs/stream_stat")
	for seed := range long(2, 20) {
		load(2 + seed)
	}
	if after := facts(); after != before || strings.Count(after, "\n") != 3 {
		t.Errorf("under load the processes changed from\n%sto\n%s", before, after)
	}
	if m.get("zramfs/stream_stat") == reads {
		t.Error("there was no load")
	}
}
