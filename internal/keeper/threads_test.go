package keeper

import (
	"os"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zramfs/zramfs/internal/host"
)

// Goroutines that block in system calls find threads that are there already.
func TestSpareThreads(t *testing.T) {
	threads := func() int64 {
		m, err := host.ProcessMemory(os.Getpid())
		if err != nil {
			t.Fatal(err)
		}
		return int64(m.Threads)
	}
	const n = 32
	spareThreads(n)
	before := threads()
	if before < n {
		t.Fatalf("%d threads, want %d and more", before, n)
	}
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	var blocked sync.WaitGroup
	for range n / 2 {
		blocked.Go(func() {
			var b [1]byte
			if _, err := unix.Read(pipe[0], b[:]); err != nil {
				t.Error(err)
			}
		})
	}
	if _, err := unix.Write(pipe[1], make([]byte, n/2)); err != nil {
		t.Error(err)
	}
	blocked.Wait()
	if after := threads(); after != before {
		t.Errorf("%d threads became %d", before, after)
	}
	for _, fd := range pipe {
		if err := unix.Close(fd); err != nil {
			t.Error(err)
		}
	}
}
