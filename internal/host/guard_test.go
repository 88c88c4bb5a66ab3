package host

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

func TestParseThread(t *testing.T) {
	const rest = "S 9550 9562 9562 0 -1 1077936192 17 0 3 0 0 0 0 0 20 0 17 0 1204884 2594856960 9122 18446744073709551615 " +
		"4194304 6959408 140728651475808 0 0 0 0 20483 2143399676 1 0 0 -1 1 5 1 0 0 0 10121216 10280544\n"
	got, err := parseThread("51 (a) b (c) " + rest)
	want := Thread{ID: 51, Parent: 9550, Flags: 1077936192, Policy: 1, Priority: 5, MinorFaults: 17, MajorFaults: 3, Siblings: 17}
	if err != nil || got != want {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
	for _, torn := range []string{"", "51 (x) S 1", "x (y) " + rest, "51 (x) " + strings.ReplaceAll(rest, "17", "?")} {
		if got, err := parseThread(torn); err == nil {
			t.Errorf("%q was taken: %+v", torn, got)
		}
	}
}

// The kernel's own answers about this process are what the /proc parsers find.
func TestThreads(t *testing.T) {
	locked := make(chan int)
	release := make(chan struct{})
	go func() {
		runtime.LockOSThread() // and never unlocked: the policy ends with it
		if err := SetPolicy(0, unix.SCHED_BATCH, 0); err != nil {
			t.Error(err)
		}
		locked <- unix.Gettid()
		<-release
	}()
	tid := <-locked
	defer close(release)
	threads, err := Threads(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	batch := slices.DeleteFunc(slices.Clone(threads), func(t Thread) bool { return t.Policy != unix.SCHED_BATCH })
	if len(batch) != 1 || batch[0].ID != tid {
		t.Errorf("thread %d is SCHED_BATCH; found %+v of %+v", tid, batch, threads)
	}
	for _, th := range threads {
		if th.Parent != os.Getppid() {
			t.Errorf("parent of %+v: want %d", th, os.Getppid())
		}
	}
	all, flushing, err := ThreadsFlushing(os.Getpid())
	if err != nil || all < len(threads) || flushing > all {
		t.Errorf("%d threads, %d flushing, %v", all, flushing, err)
	}
	if _, err := Threads(1 << 30); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a process that is not there: %v", err)
	}
}

func TestChildrenAndOpenFiles(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	children, err := Children(os.Getpid())
	if err != nil || !slices.Contains(children, cmd.Process.Pid) {
		t.Errorf("got %v, %v; want %d among them", children, err, cmd.Process.Pid)
	}
	path := filepath.Join(t.TempDir(), "file")
	for want := 1; want <= 3; want++ {
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if got, err := OpenFiles(os.Getpid(), path); got != want || err != nil {
			t.Errorf("got %d, %v; want %d", got, err, want)
		}
	}
}

func TestParseKworker(t *testing.T) {
	for comm, want := range map[string]Kworker{
		"kworker/u8:3-loop0":           {Pool: "u8", Serves: "loop0"},
		"kworker/u17:0+loop12":         {Pool: "u17", Serves: "loop12"},
		"kworker/u8:2-btrfs-endio":     {Pool: "u8", Serves: "btrfs-endio"},
		"kworker/u9:0":                 {Pool: "u9"},
		"kworker/0:1-events":           {},
		"kworker/R-loop0":              {},
		"kworker/u":                    {},
		"sleep":                        {},
		"kworker/ux:1-loop0":           {},
		"kworker/u8:1-events_unbound+": {Pool: "u8", Serves: "events_unbound-"},
	} {
		if got, ok := parseKworker(comm); got != want || ok != (want.Pool != "") {
			t.Errorf("%q: got %+v, %v; want %+v", comm, got, ok, want)
		}
	}
	// A process that takes the name is not taken for one.
	name, err := ReadValue("/proc/self/comm")
	if err != nil {
		t.Fatal(err)
	}
	if err := WriteValue("/proc/self/comm", "kworker/u8:9"); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = WriteValue("/proc/self/comm", name) }()
	workers, err := Kworkers()
	if err != nil || slices.ContainsFunc(workers, func(w Kworker) bool { return w.PID == os.Getpid() }) {
		t.Errorf("got %+v, %v", workers, err)
	}
}

const someMappings = `00400000-006a4000 r-xp 00000000 00:01 52398                              /memfd:zramfs (deleted)
Size:               2704 kB
Rss:                2512 kB
Locked:              858 kB
Swap:                  0 kB
VmFlags: rd ex mr mw me lo lf
7fc899 bad line
7fc8998ed000-7fc89a348000 rw-s 00000000 00:27 3                          /#3 (deleted)
Size:              10604 kB
Rss:               10600 kB
Swap:                  4 kB
VmFlags: rd wr sh mr mw ms
7ffdf1480000-7ffdf1482000 r-xp 00000000 00:00 0                          [vdso]
Size:                  8 kB
Rss:                   8 kB
VmFlags: rd ex mr mw me de
`

func TestMappings(t *testing.T) {
	got := parseMappings(someMappings)
	want := []Mapping{
		{Name: "/memfd:zramfs (deleted)", Size: 2704 << 10, Resident: 2512 << 10, Locked: true},
		{Name: "/#3 (deleted)", Size: 10604 << 10, Resident: 10600 << 10, Swapped: 4 << 10, Shared: true},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}

	// A mapping of this process, before and after it is locked.
	const size = 3 << 20
	mem, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(mem)
	find := func() Mapping {
		all, err := Mappings(os.Getpid())
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(all, func(m Mapping) bool { return m.Shared && m.Size == size })
		if i < 0 {
			t.Fatalf("not found in %+v", all)
		}
		return all[i]
	}
	if m := find(); m.Resident != 0 || m.Locked {
		t.Errorf("untouched: %+v", m)
	}
	mem[0] = 1
	if m := find(); m.Resident != 4096 || m.Locked {
		t.Errorf("one page touched: %+v", m)
	}
	if err := unix.Mlock(mem); err != nil {
		t.Skip("needs to lock 3 MiB: ", err)
	}
	if m := find(); m.Resident != size || !m.Locked {
		t.Errorf("locked: %+v", m)
	}
}

func TestParseCgroups(t *testing.T) {
	got := parseCgroups("9:name=systemd:/\n4:memory:/a/b\n2:cpu,cpuacct:/c\n0::/d\nx\n")
	want := map[string]string{"name=systemd": "/", "memory": "/a/b", "cpu": "/c", "cpuacct": "/c", "": "/d"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// A limit on a cgroup is found from the cgroup below it.
func TestCgroupLimits(t *testing.T) {
	root, err := CgroupRoot()
	if err != nil {
		t.Skip("needs a memory cgroup: ", err)
	}
	if !Capable(CapSysAdmin) {
		t.Skip("needs root (CAP_SYS_ADMIN)")
	}
	file, value := "memory.high", "1073741824"
	if strings.HasSuffix(root, "/memory") {
		file = "memory.limit_in_bytes"
	}
	top := filepath.Join(root, "zramfs-limit-"+strconv.Itoa(os.Getpid()))
	dir := filepath.Join(top, "below")
	for _, d := range []string{top, dir} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Skip("needs to make a cgroup: ", err)
		}
		defer os.Remove(d)
	}
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }() // before the cgroups go
	if err := WriteValue(filepath.Join(dir, "cgroup.procs"), strconv.Itoa(cmd.Process.Pid)); err != nil {
		t.Skip("needs to move a process: ", err)
	}
	before, err := CgroupLimits(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	limit := filepath.Join(top, file)
	if slices.Contains(before, limit+": "+value) {
		t.Fatalf("limited before: %q", before)
	}
	if err := WriteValue(limit, value); err != nil {
		t.Skip("needs the memory controller: ", err)
	}
	after, err := CgroupLimits(cmd.Process.Pid)
	if err != nil || !slices.Contains(after, limit+": "+value) {
		t.Errorf("got %q, %v; want %s among them", after, err, limit)
	}
}

func TestLimitWords(t *testing.T) {
	for _, c := range []struct {
		name  string
		held  func(string) bool
		value string
		want  bool
	}{
		{"v2", limited, "max", false}, {"v2", limited, "1000", true},
		{"v1", limitedV1, "9223372036854771712", false}, {"v1", limitedV1, "18446744073709551615", false},
		{"v1", limitedV1, "268435456", true}, {"cfs", limited, "-1", false}, {"cfs", limited, "50000", true},
		{"cpu.max", quota, "max 100000", false}, {"cpu.max", quota, "50000 100000", true},
		{"v1", frozen, "THAWED", false}, {"v1", frozen, "FROZEN", true},
		{"v2", frozen, "0", false}, {"v2", frozen, "1", true},
	} {
		if got := c.held(c.value); got != c.want {
			t.Errorf("%s %q: got %v", c.name, c.value, got)
		}
	}
}

func TestValue(t *testing.T) {
	file := filepath.Join(t.TempDir(), "value")
	if err := WriteValue(file, "1"); !NotToBeHad(err) {
		t.Errorf("a file that is not there: %v", err)
	}
	if err := os.WriteFile(file, []byte("7\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := ReadValue(file); got != "7" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	if err := Writable(file); err != nil {
		t.Error(err)
	}
	if err := Writable(file + "?"); !NotToBeHad(err) {
		t.Errorf("a file that is not there: %v", err)
	}
	// The kernel rejects what is no number: that is no lack of the machine.
	if err := WriteValue("/proc/sys/vm/page-cluster", "many"); Capable(CapSysAdmin) && NotToBeHad(err) {
		t.Errorf("a wrong value: %v", err)
	}
}

// Warming sends each size as often as the device has tags, both ways, and
// leaves the device empty. In use, it is not touched.
func TestWarmLoop(t *testing.T) {
	needRoot(t)
	file := backingFile(t, 64<<20)
	if err := os.WriteFile(file, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, 64<<20); err != nil {
		t.Fatal(err)
	}
	loop := attachForTest(t, file)
	defer func() {
		if err := DetachLoop(loop.Path); err != nil {
			t.Error(err)
		}
	}()
	user, err := os.OpenFile(loop.Path, os.O_RDONLY|unix.O_EXCL, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := WarmLoop(loop.Path, false); !errors.Is(err, unix.EBUSY) {
		t.Errorf("in use: %v", err)
	}
	user.Close()
	for brief, want := range map[bool]int{true: 2 * WarmDepth, false: 2 * 6 * WarmDepth} {
		if n, err := WarmLoop(loop.Path, brief); n != want || err != nil {
			t.Errorf("brief %v: %d requests, %v; want %d", brief, n, err, want)
		}
	}
	var st unix.Stat_t
	if err := unix.Stat(file, &st); err != nil || st.Blocks != 0 {
		t.Errorf("%d blocks left, %v", st.Blocks, err)
	}
	// The name of a worker tells its last work: whatever else the machine does
	// may have been given to it since.
	var workers []Kworker
	await(t, "a kworker that has served a loop device", func() bool {
		if _, err := WarmLoop(loop.Path, true); err != nil {
			t.Fatal(err)
		}
		if workers, err = Kworkers(); err != nil {
			t.Fatal(err)
		}
		return slices.ContainsFunc(workers, func(w Kworker) bool { return strings.HasPrefix(w.Serves, "loop") })
	})
	if t.Failed() {
		t.Logf("%+v", workers)
	}
}

// What was populated faults no more: the kernel counts none for it.
func TestPopulate(t *testing.T) {
	const size = 8 << 20
	// Whatever the address in the mapping.
	mem, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(mem)
	if err := unix.Madvise(mem, unix.MADV_NOHUGEPAGE); err != nil {
		t.Log(err)
	}
	// A hole keeps it from being one mapping with its neighbours.
	if err := unix.Mprotect(mem[:4096], unix.PROT_NONE); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mprotect(mem[size-4096:], unix.PROT_NONE); err != nil {
		t.Fatal(err)
	}
	body := mem[4096 : size-4096]
	there := func(why string, want ...[2]int) { // first page, page behind the last
		t.Helper()
		present := make([]byte, len(body)/4096)
		if _, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&body[0])), uintptr(len(body)),
			uintptr(unsafe.Pointer(&present[0]))); errno != 0 {
			t.Fatal(errno)
		}
		for i, p := range present {
			wanted := slices.ContainsFunc(want, func(w [2]int) bool { return w[0] <= i && i < w[1] })
			if p&1 == 1 != wanted {
				t.Fatalf("page %d: %d; %v should be there: %s", i, p, want, why)
			}
		}
	}
	middle := uintptr(unsafe.Pointer(&body[len(body)/2]))
	populate := func(more int64, whole bool) {
		t.Helper()
		if err := PopulateHeap(middle, more, whole); err != nil {
			t.Fatal(err)
		}
	}
	populate(0, false)
	there("nothing was")
	const near = nearStack / 4096
	body[3*4096] = 1
	body[700*4096+7] = 1
	body[1200*4096+7] = 1
	populate(100<<10, false)
	there("what existed, what is near, and 100 KiB of the first that did not exist",
		[2]int{0, 4 + near + 25}, [2]int{700 - near, 701 + near}, [2]int{1200 - near, 1201 + near})
	populate(64<<10, true)
	there("all up to the last, what is near, and 64 KiB", [2]int{0, 1201 + near + near + 16})
	if err := PopulateProgram(); err != nil {
		t.Fatal(err)
	}
	mappings, err := Mappings(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, m := range mappings {
		if m.Name == exe {
			found++
			if m.Resident < m.Size {
				t.Errorf("%+v is not all there", m)
			}
		}
	}
	if found == 0 {
		t.Errorf("no mapping of %s in %+v", exe, mappings)
	}
}

func TestSpareCgroup(t *testing.T) {
	mounts, err := Mounts()
	if err != nil {
		t.Fatal(err)
	}
	root, ok := cgroupRoots(mounts)[""]
	if !ok || !Capable(CapSysAdmin) {
		t.Skip("needs cgroup version 2 and root")
	}
	dir := filepath.Join(root, "zramfs-spare-"+strconv.Itoa(os.Getpid()))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Skip("needs to make a cgroup: ", err)
	}
	defer os.Remove(dir)
	spareCgroup(dir)
	for _, mark := range []string{"user.survive_final_kill_signal", "user.oomd_omit"} {
		value := make([]byte, 8)
		n, err := unix.Getxattr(dir, mark, value)
		if errors.Is(err, unix.EOPNOTSUPP) {
			t.Skip("needs Linux 5.7: ", err)
		}
		if err != nil || string(value[:n]) != "1" {
			t.Errorf("%s: %q, %v", mark, value[:max(n, 0)], err)
		}
	}
}
