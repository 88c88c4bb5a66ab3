package uring

import (
	"fmt"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	futexWait = 0
	futexWake = 1

	futex2Size32 = 2 // a word of 32 bits, in memory that processes share
	anyBit       = 0xffffffff
	pageSize     = 4096
)

// Wait sleeps while the word, which lies in shared memory, has the value. It
// may return for no reason.
func Wait(word *atomic.Uint32, value uint32) {
	// Not RawSyscall: the garbage collector would wait for this thread.
	_, _, _ = syscall.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(word)), futexWait, uintptr(value), 0, 0, 0)
}

// Wake wakes whoever waits for the word.
func Wake(word *atomic.Uint32) {
	_, _, _ = syscall.RawSyscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(word)), futexWake, 1<<30, 0, 0, 0)
}

// Probe says why futexes cannot be waited for with this ring, nil if they can.
// Nothing may be under way.
func (r *Ring) Probe() error {
	m, err := unix.Mmap(-1, 0, pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS)
	if err != nil {
		return fmt.Errorf("uring: map a futex: %w", err)
	}
	defer func() { _ = unix.Munmap(m) }() // ours
	r.Next().FutexWait((*atomic.Uint32)(unsafe.Pointer(&m[0])), 1, 0)
	for {
		if errno := r.Enter(1); errno != 0 && !Later(errno) {
			return fmt.Errorf("uring: enter: %w", errno)
		}
		if res, ok := r.Reap(); ok {
			if errno := syscall.Errno(-res.N); errno != syscall.EAGAIN { // what a word with another value gives
				return fmt.Errorf("uring: wait for a futex (Linux 6.7): %w", errno)
			}
			return nil
		}
	}
}

// FutexWait fills the entry with a wait as Wait's, whose result comes when the
// word is woken or does not have the value.
func (e *Entry) FutexWait(word *atomic.Uint32, value uint32, user uint64) {
	e.Op, e.FD, e.User = OpFutexWait, futex2Size32, user
	e.Addr, e.Off = uint64(uintptr(unsafe.Pointer(word))), uint64(value)
	*(*uint64)(unsafe.Pointer(&e.Command)) = anyBit
}
