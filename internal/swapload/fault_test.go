package swapload

import (
	"os"
	"runtime/debug"
	"testing"

	"golang.org/x/sys/unix"
)

// mapBeyondEnd maps a page beyond the end of an empty file, and lets this
// goroutine survive touching it until the test ends.
func mapBeyondEnd(t *testing.T, f *os.File) []byte {
	t.Helper()
	mem, err := unix.Mmap(int(f.Fd()), 0, PageSize, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	old := debug.SetPanicOnFault(true)
	t.Cleanup(func() { debug.SetPanicOnFault(old); _ = unix.Munmap(mem) })
	return mem
}
