package host

import (
	"bytes"
	"encoding/binary"
	"reflect"
	"testing"
)

// The texts below were captured from running machines.

func TestParseSwaps(t *testing.T) {
	got := parseSwaps("Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n" +
		"/dev/loop0                              partition\t4194300\t\t1024\t\t100\n" +
		"/swap\\040file                          file\t\t2097148\t\t0\t\t-2\n" +
		"/dev/broken partition x y z\n")
	want := []Swap{
		{Path: "/dev/loop0", Size: 4194300 << 10, Used: 1 << 20, Priority: 100},
		{Path: "/swap file", Size: 2097148 << 10, Priority: -2},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestParseMountinfo(t *testing.T) {
	got := parseMountinfo(`22 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
36 22 0:31 / /sys/fs/cgroup/memory rw,relatime shared:9 master:2 - cgroup cgroup rw,memory
71 22 0:45 / /run/my\040disk rw,nosuid,nodev,relatime shared:44 - fuse.zramfs zramfs rw,user_id=0,group_id=0
garbage
`)
	want := []Mount{
		{Point: "/", Type: "ext4", Source: "/dev/vda", Minor: 0, Dev: "254:0"},
		{Point: "/sys/fs/cgroup/memory", Type: "cgroup", Source: "cgroup", Minor: 31, Dev: "0:31"},
		{Point: "/run/my disk", Type: FSType, Source: "zramfs", Minor: 45, Dev: "0:45"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestParseStatus(t *testing.T) {
	status := "Name:\tzramfs\nVmLck:\t  123 kB\nVmRSS:\t   2048 kB\nRssShmem:\t  1024 kB\n" +
		"VmSwap:\t      0 kB\nThreads:\t9\nCapEff:\t000001fffeffffff\n"
	if got, want := parseMemory([]byte(status)), (Memory{Resident: 2 << 20, Shared: 1 << 20, Locked: 123 << 10, Threads: 9}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	for capability, want := range map[int]bool{CapIPCLock: true, CapSysAdmin: true, CapSysResource: false} {
		if got := capableIn(status, capability); got != want {
			t.Errorf("capability %d: got %v, want %v", capability, got, want)
		}
	}
}

func TestParseCgroup(t *testing.T) {
	for text, want := range map[string]string{
		"0::/user.slice/session-1.scope\n":                       "/user.slice/session-1.scope",
		"5:pids:/a\n4:memory:/zramfs\n1:name=systemd:/\n0::/b\n": "/zramfs",
		"": "",
	} {
		if got := parseCgroup(text); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}

func TestSwapHeader(t *testing.T) {
	h, err := swapHeader(1<<30+100, "zramfs")
	if err != nil {
		t.Fatal(err)
	}
	if len(h) != 4096 || string(h[4086:]) != "SWAPSPACE2" || !bytes.HasPrefix(h[1052:], []byte("zramfs\x00")) {
		t.Error("signature or label misplaced")
	}
	if v, last := binary.NativeEndian.Uint32(h[1024:]), binary.NativeEndian.Uint32(h[1028:]); v != 1 || last != 1<<18-1 {
		t.Errorf("version %d, last page %d", v, last)
	}
	if _, err := swapHeader(9*4096, "x"); err == nil {
		t.Error("a device of nine pages was taken")
	}
	if _, err := swapHeader(16<<40, "x"); err != nil {
		t.Errorf("16 TiB: %v", err)
	}
}

func TestBelow(t *testing.T) {
	for _, c := range []struct {
		path, dir string
		want      bool
	}{{"/a/b", "/a", true}, {"/a", "/a", true}, {"/ab", "/a", false}, {"/x", "/", true}} {
		if got := Below(c.path, c.dir); got != c.want {
			t.Errorf("Below(%q, %q) = %v", c.path, c.dir, got)
		}
	}
}
