package uring

import (
	"runtime"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func newRing(t *testing.T, n uint32) *Ring {
	t.Helper()
	runtime.LockOSThread()
	t.Cleanup(runtime.UnlockOSThread)
	r, err := New(n)
	if err != nil {
		t.Skipf("needs io_uring with entries of 128 bytes: %v", err)
	}
	t.Cleanup(r.Close)
	return r
}

// word is a futex in memory that processes could share.
func word(t *testing.T) *atomic.Uint32 {
	t.Helper()
	m, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Munmap(m) })
	return (*atomic.Uint32)(unsafe.Pointer(&m[0]))
}

// Entries go round the ring several times, and each has its result.
func TestRound(t *testing.T) {
	r := newRing(t, 8)
	for i := range uint64(100) {
		for j := range uint64(5) {
			r.Next().User = 10*i + j // an IORING_OP_NOP
		}
		for got := uint64(0); got < 5; {
			if errno := r.Enter(1); errno != 0 {
				t.Fatal(errno)
			}
			for res, ok := r.Reap(); ok; res, ok = r.Reap() {
				if res.User != 10*i+got || res.N != 0 {
					t.Fatalf("%+v", res)
				}
				got++
			}
		}
	}
	if n := r.Pending(); n != 0 {
		t.Errorf("%d entries were not taken", n)
	}
	if n := testing.AllocsPerRun(100, func() {
		r.Next()
		_ = r.Enter(1)
		r.Reap()
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestFutex(t *testing.T) {
	r, w := newRing(t, 8), word(t)
	if err := r.Probe(); err != nil {
		t.Skipf("needs io_uring with futexes (Linux 6.7): %v", err)
	}
	r.Next().FutexWait(w, 0, 2)
	if errno := r.Enter(0); errno != 0 {
		t.Fatal(errno)
	}
	if res, ok := r.Reap(); ok {
		t.Fatalf("%+v before it was woken", res)
	}
	go func() {
		time.Sleep(time.Millisecond)
		w.Add(1)
		Wake(w)
	}()
	for {
		if errno := r.Enter(1); errno != 0 {
			t.Fatal(errno)
		}
		if res, ok := r.Reap(); ok {
			if res.User != 2 || res.N != 0 {
				t.Errorf("%+v", res)
			}
			break
		}
	}
	Wait(w, 0) // returns: it has changed
}

func TestTooMany(t *testing.T) {
	r := newRing(t, 2)
	defer func() {
		if recover() == nil {
			t.Error("a third entry found room")
		}
	}()
	r.Next()
	r.Next()
	r.Next()
}
