package keeper

import (
	"os"
	"slices"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// openFiles are the descriptors of this process.
func openFiles(t *testing.T) []int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	var fds []int
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil { // else the directory's own
			fds = append(fds, fd)
		}
	}
	return fds
}

// TestNoKeeperLeavesNothing: a worker that tries to start a keeper, and cannot,
// has as many descriptors afterwards, whichever it was that could not be had.
func TestNoKeeperLeavesNothing(t *testing.T) {
	null, err := os.Open(os.DevNull) // and with it what the runtime opens for the first file
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	control, other := pair(t)
	defer control.close()
	defer other.close()
	// What is free below the highest descriptor would count as well.
	for highest := slices.Max(openFiles(t)); ; {
		fd, err := unix.Dup(int(null.Fd()))
		if err != nil {
			t.Fatal(err)
		}
		if fd > highest {
			unix.Close(fd)
			break
		}
		t.Cleanup(func() { unix.Close(fd) })
	}
	before := openFiles(t)
	var limit unix.Rlimit
	if err := unix.Prlimit(0, unix.RLIMIT_NOFILE, nil, &limit); err != nil {
		t.Fatal(err)
	}
	// The socket's two ends, this process, /dev/null, the boot file. With all of
	// them it would take two more to start a keeper, which is not for a test.
	w := &worker{control: control}
	for more := range uint64(5) {
		short := unix.Rlimit{Cur: uint64(slices.Max(before)) + 1 + more, Max: limit.Max}
		if err := unix.Prlimit(0, unix.RLIMIT_NOFILE, &short, nil); err != nil {
			t.Fatal(err)
		}
		_, err := w.startKeeper()
		if back := unix.Prlimit(0, unix.RLIMIT_NOFILE, &limit, nil); back != nil {
			t.Fatal(back)
		}
		if err == nil {
			t.Fatalf("a keeper was started with %d descriptors", more)
		}
		t.Logf("%d descriptors to be had: %v", more, err)
		if after := openFiles(t); len(after) > len(before) {
			t.Errorf("%d descriptors became %d", len(before), len(after))
		}
	}
}
