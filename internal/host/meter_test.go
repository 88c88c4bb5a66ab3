package host

import (
	"testing"
)

func TestSwapIn(t *testing.T) {
	text := []byte("Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n" +
		"/dev/loop12                             partition\t4194300\t\t1024\t\t100\n" +
		"/dev/loop1                              partition\t65532\t\t7\t\t-2\n" +
		"/dev/loop2                              partition\t65536\t\t8\t\t3")
	for path, want := range map[string][2]int64{
		"/dev/loop1 ":  {65532 << 10, 7 << 10},
		"/dev/loop12 ": {4194300 << 10, 1 << 20},
		"/dev/loop2 ":  {65536 << 10, 8 << 10},
	} {
		if size, used, on := swapIn(text, []byte(path)); size != want[0] || used != want[1] || !on {
			t.Errorf("%s: %d of %d, on %v", path, used, size, on)
		}
	}
	for _, text := range [][]byte{text, nil, []byte("\n\n")} {
		if _, _, on := swapIn(text, []byte("/dev/loop3 ")); on {
			t.Errorf("loop3 is in %q", text)
		}
	}
	if n, ok := memoryField([]byte("MemTotal:  16 kB\nMemAvailable:\t  4 kB\n"), "MemAvailable:"); n != 4096 || !ok {
		t.Errorf("got %d, %v", n, ok)
	}
	if _, ok := memoryField([]byte("MemTotal:  16 kB\nMem"), "MemAvailable:"); ok {
		t.Error("a field that is not there")
	}
}

// TestMeter: looking at swap and memory allocates nothing.
func TestMeter(t *testing.T) {
	m, err := OpenMeter()
	if err != nil {
		t.Skipf("needs /proc/swaps and /proc/meminfo: %v", err)
	}
	defer m.Close()
	device := PrepareSwapDevice(1<<20-1, 5)
	look := func() {
		if !m.ReadSwaps() {
			t.Error("swaps cannot be read")
		}
		if _, _, on := m.Swap(device); on {
			t.Error("a device that there is not is on")
		}
		total, available, ok := m.Memory()
		if !ok || available <= 0 || available > total {
			t.Errorf("%d of %d bytes, %v", available, total, ok)
		}
	}
	if n := testing.AllocsPerRun(100, look); n != 0 {
		t.Errorf("%v allocations", n)
	}
	all, err := ReadMemory()
	if err != nil || all.Available <= 0 || all.Anonymous < 0 {
		t.Errorf("%+v, %v", all, err)
	}
}
