package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// swapOffTries is how often ENOMEM is not believed. The kernel says it also when
// a program swaps a page in, or ends, just as swapoff comes to that page, and
// goes on swapping to the device: kernel zram too, in 24 of 25 swapoffs beside
// a program that reads all its memory (Linux 6.18). What came back meanwhile is
// back, so each try has less to do.
const swapOffTries = 20

// SwapOffContext is SwapOff that can be stopped: when ctx ends, the device
// stays swap, with the pages that are not back yet, and the error is ctx's.
func SwapOffContext(ctx context.Context, path string) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("swapoff %s: %w", path, err)
	}
	// The kernel stops when its thread has a signal pending. The runtime's own
	// signal is one that has no effect.
	thread, done := make(chan int), make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		thread <- unix.Gettid()
		for tries := swapOffTries; ; {
			err := SwapOff(path)
			if errors.Is(err, unix.ENOMEM) && tries > 0 {
				tries--
			} else if !errors.Is(err, unix.EINTR) || ctx.Err() != nil {
				done <- err
				return
			}
		}
	}()
	tid := <-thread
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	for {
		// It may be on its way into the system call, and would not see the signal.
		_ = unix.Tgkill(os.Getpid(), tid, unix.SIGURG)
		select {
		case err := <-done:
			if errors.Is(err, unix.EINTR) {
				err = fmt.Errorf("swapoff %s: %w", path, ctx.Err())
			}
			return err
		case <-time.After(10 * time.Millisecond):
		}
	}
}
