package integration

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/zramfs/zramfs/internal/swapload"
)

// TestMemfdStaysInMemory: where there is no tmpfs with noswap, what a dead worker
// had locked must not be swapped out while no other serves. The keeper is
// stopped, so none does; then memory is pressed. A file of the same cgroup goes
// to swap, nothing of ours does.
func TestMemfdStaysInMemory(t *testing.T) {
	need(t, "losetup", "mkswap", "swapon", "swapoff", "/dev/loop-control", "/dev/shm")
	needMemcg(t)
	needResend(t)
	group, err := swapload.NewMemcg(fmt.Sprintf("zramfs-memfd-%d", os.Getpid()), 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := group.Remove(); err != nil {
			t.Error(err)
		}
	}()
	m := mount(t, "--size", "96M", "--memfd", "--no-standby")
	keeper, worker := int(m.stat("zramfs/daemon_stat", "keeper_pid")), int(m.stat("zramfs/daemon_stat", "worker_pid"))
	if _, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/3", keeper)); err != nil {
		t.Skipf("needs to look at what a keeper has open (CAP_SYS_PTRACE): %v", err)
	}
	for _, pid := range []int{keeper, worker} { // memory that is made from here on is this cgroup's
		if err := os.WriteFile(filepath.Join(group.Dir(), "cgroup.procs"), []byte(fmt.Sprint(pid)), 0); err != nil {
			t.Fatal(err)
		}
	}
	data := bytes.Repeat(corpus(t), 1+(64<<20)/len(corpus(t)))[:64<<20]
	disk := open(t, m.disk(0), os.O_RDWR)
	writeAt(t, disk, 0, data)
	control := filepath.Join("/dev/shm", fmt.Sprintf("zramfs-control-%d", os.Getpid()))
	defer os.Remove(control)
	run(t, "sh", "-c", `echo 0 > "$1"/cgroup.procs && head -c 16M /dev/urandom > "$2"`, "sh", group.Dir(), control)
	swapFile(t)
	time.Sleep(2 * time.Second) // pages of tables that nobody populated are looked for every second

	if err := unix.Kill(keeper, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Kill(keeper, unix.SIGCONT) }()
	m.told.kills = true
	if err := unix.Kill(worker, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for range long(5, 20) {
		press(t, group)
		time.Sleep(time.Second)
	}
	if here, out := residency(t, control); out == 0 {
		t.Errorf("the control's %d pages are all in memory: nothing was pressed", here)
	}
	links, err := filepath.Glob(filepath.Join("/proc", fmt.Sprint(keeper), "fd", "*"))
	if err != nil {
		t.Fatal(err)
	}
	regions := 0
	for _, link := range links {
		what, err := os.Readlink(link)
		if err != nil || !strings.HasPrefix(what, "/memfd:") || strings.HasPrefix(what, "/memfd:zramfs") {
			continue
		}
		here, out := residency(t, link)
		if out > 0 {
			t.Errorf("%s: %d pages of %d were swapped out", what, out, here+out)
		}
		if here > 0 {
			regions++
		}
	}
	if regions < 3 { // the header, the buffers, the disk
		t.Errorf("%d regions of the keeper were looked at", regions)
	}

	if err := unix.Kill(keeper, unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if got := readAt(t, disk, 0, len(data)); !bytes.Equal(got, data) {
		t.Error("the disk is not what was written")
	}
	m.check()
	if err := disk.Close(); err != nil {
		t.Error(err)
	}
	m.umount() // the cgroup is empty then
}

// swapFile swaps on a file for the time of the test.
func swapFile(t *testing.T) {
	t.Helper()
	file := filepath.Join(scratch(t), "swap")
	run(t, "dd", "if=/dev/zero", "of="+file, "bs=1M", "count=128")
	loop := strings.TrimSpace(run(t, "losetup", "-f", "--show", file))
	t.Cleanup(func() { run(t, "losetup", "-d", loop) })
	run(t, "mkswap", loop)
	run(t, "swapon", loop)
	t.Cleanup(func() { run(t, "swapoff", loop) })
}

// press has the kernel take from a cgroup what it can.
func press(t *testing.T, g *swapload.Memcg) {
	t.Helper()
	for file, text := range map[string]string{"memory.force_empty": "0", "memory.reclaim": "256M"} {
		err := os.WriteFile(filepath.Join(g.Dir(), file), []byte(text), 0)
		if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.EAGAIN) &&
			!errors.Is(err, os.ErrPermission) {
			t.Fatal(err)
		}
	}
}

// residency counts the pages of a file that are in memory, and those that exist
// and are not.
func residency(t *testing.T, path string) (here, out int) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	mem, err := unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Munmap(mem) }()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	in := make([]byte, (len(mem)+pageSize-1)/pageSize)
	if err := mincore(mem, in); err != nil {
		t.Fatal(err)
	}
	for _, b := range in {
		here += int(b & 1)
	}
	return here, int(st.Blocks*512/pageSize) - here
}

func mincore(mem, in []byte) error {
	_, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&mem[0])), uintptr(len(mem)), uintptr(unsafe.Pointer(&in[0])))
	if errno != 0 {
		return errno
	}
	return nil
}
