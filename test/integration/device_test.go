package integration

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestTwoDevices runs two devices of one mount at once, each with an algorithm,
// a size and a policy of its own, and takes one away.
func TestTwoDevices(t *testing.T) {
	need(t, "fio", "/dev/loop-control")
	m := mount(t, "--size", "96M", "--algorithm", "lz4", "--write-behind", "16")
	if id := strings.TrimSpace(m.get("hot_add")); id != "1" {
		t.Fatalf("hot_add gave %q, want 1", id)
	}
	// The kernel's order: algorithm first, the size makes the disk.
	m.set("zram1/comp_algorithm", "zstd")
	m.set("zram1/zramfs/stable", "wait")
	m.set("zram1/zramfs/write_behind", "8")
	m.set("zram1/disksize", "128M")

	// Both at once, the second through a loop device.
	loop := strings.TrimSpace(zramfs(t, "attach", m.point, "--device", "1"))
	var jobs []*exec.Cmd
	for i, target := range []string{m.disk(0), loop} {
		job := exec.Command("fio", fmt.Sprintf("--name=zram%d", i), "--filename="+target, "--size="+long("64M", "90M"), "--direct=1",
			"--ioengine=libaio", "--iodepth=8", "--rw=randwrite", "--bssplit=4k/70:64k/20:512k/10", "--verify=crc32c",
			"--verify_fatal=1", "--buffer_compress_percentage=60", "--refill_buffers", "--aux-path="+scratch(t))
		job.Dir = scratch(t)
		job.Stderr = os.Stderr
		if err := job.Start(); err != nil {
			t.Fatal(err)
		}
		jobs = append(jobs, job)
	}
	for _, job := range jobs {
		if err := job.Wait(); err != nil {
			t.Errorf("%s: %v", strings.Join(job.Args, " "), err)
		}
	}
	for name, want := range map[string]string{
		"zram0/comp_algorithm": "[lz4]", "zram1/comp_algorithm": "[zstd]",
		"zram0/disksize": "100663296", "zram1/disksize": "134217728",
		"zram0/zramfs/stable": "[snapshot]", "zram1/zramfs/stable": "[wait]",
	} {
		if got := m.get(name); !strings.Contains(got, want) {
			t.Errorf("%s is %q, want %s in it", name, got, want)
		}
	}

	// Held by its loop device, then by an open file, it stays.
	remove := func() error { return store(m.point+"/sys/class/zram-control/hot_remove", "1") }
	wantErrno(t, "hot_remove under a loop device", remove(), syscall.EBUSY)
	await(t, "detach", func() bool { return command(zramfsBinary, "detach", m.point, "--device", "1").code == 0 })
	holder := open(t, m.disk(1), os.O_RDONLY)
	wantErrno(t, "hot_remove of an open disk", remove(), syscall.EBUSY)
	wantErrno(t, "reset of an open disk", store(m.point+"/sys/block/zram1/reset", "1"), syscall.EBUSY)
	m.check()
	holder.Close()
	await(t, "hot_remove", func() bool { return remove() == nil }) // a close is told a moment later
	if ids := m.devices(); len(ids) != 1 || ids[0] != 0 {
		t.Errorf("devices %v are left, want zram0", ids)
	}
	wantErrno(t, "hot_remove of what is gone", remove(), syscall.ENODEV)
	if _, err := os.Stat(m.disk(1)); !os.IsNotExist(err) {
		t.Errorf("the disk of a removed device: %v, want ENOENT", err)
	}
	if id := strings.TrimSpace(m.get("hot_add")); id != "1" {
		t.Errorf("hot_add gave %q, want the free number 1", id)
	}
	if got := m.get("zram1/disksize"); got != "0\n" {
		t.Errorf("a new device has disksize %q, want 0", got)
	}
}

// TestSparse uses both ends of the largest disk there is.
func TestSparse(t *testing.T) {
	need(t, "fallocate", "blkdiscard", "/dev/loop-control")
	const size = 16 << 40
	m := mount(t, "--size", "16T")
	if got := strings.TrimSpace(m.get("disksize")); got != fmt.Sprint(int64(size)) {
		t.Fatalf("disksize is %s, want %d", got, int64(size))
	}
	tables := m.stat("zramfs/memory_stat", "tables")
	disk := open(t, m.disk(0), os.O_RDWR)
	pages := corpus(t)
	offsets := []int64{0, 1 << 31, 1 << 32, 1<<40 - pageSize, 1 << 43, size - pageSize}
	fillEnds := func() {
		for i, off := range offsets {
			writeAt(t, disk, off, pages[i*pageSize:(i+1)*pageSize])
		}
	}
	verifyEnds := func(file *os.File) {
		t.Helper()
		for i, off := range offsets {
			if string(readAt(t, file, off, pageSize)) != string(pages[i*pageSize:(i+1)*pageSize]) {
				t.Errorf("the page at %d is not what was written", off)
			}
		}
	}
	fillEnds()
	verifyEnds(disk)
	if held := m.memory().orig; held != int64(len(offsets))*pageSize {
		t.Errorf("orig_data_size %d after %d pages", held, len(offsets))
	}
	zero := make([]byte, 3*pageSize)
	if string(readAt(t, disk, size/3, len(zero))) != string(zero) {
		t.Error("what was never written does not read as zeroes")
	}

	// The end is the end.
	b := aligned(t, 2*pageSize)
	if n, err := unix.Pread(int(disk.Fd()), b, size-pageSize); n != pageSize || err != nil {
		t.Errorf("read across the end: %d, %v, want %d bytes", n, err, pageSize)
	}
	if n, err := unix.Pread(int(disk.Fd()), b, size); n != 0 || err != nil {
		t.Errorf("read at the end: %d, %v, want end of file", n, err)
	}
	_, err := unix.Pwrite(int(disk.Fd()), b, size)
	wantErrno(t, "write at the end", err, syscall.ENOSPC)
	if n, err := unix.Pwrite(int(disk.Fd()), pages[5*pageSize:7*pageSize], size-pageSize); n != pageSize || err != nil {
		t.Errorf("write across the end: %d, %v, want %d bytes", n, err, pageSize)
	}
	verifyEnds(disk)

	// Discards and zeroes over all of it end, and leave nothing.
	for _, flag := range []string{"--punch-hole", "--zero-range"} {
		run(t, "fallocate", flag, "--keep-size", "--offset", "0", "--length", "16TiB", m.disk(0))
		if held := m.memory().orig; held != 0 {
			t.Errorf("%s: orig_data_size %d, want 0", flag, held)
		}
		if string(readAt(t, disk, size-pageSize, pageSize)) != string(zero[:pageSize]) {
			t.Errorf("%s: the last page is not zero", flag)
		}
		fillEnds()
	}
	loop := m.attach()
	verifyEnds(open(t, loop, os.O_RDONLY|unix.O_DIRECT))
	run(t, "blkdiscard", "--force", loop)
	if held := m.memory().orig; held != 0 {
		t.Errorf("blkdiscard: orig_data_size %d, want 0", held)
	}
	// Some dozen pages must not have cost tables for 4 G of them.
	if grown := m.stat("zramfs/memory_stat", "tables") - tables; grown > 4<<20 {
		t.Errorf("the tables grew by %d bytes for %d pages", grown, len(offsets))
	}
}
