package fusefs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zramfs/zramfs/blockdev"
)

// slowRows are attributes for tests: a store into slow ends when it is told to
// by one into let_go, or when it is cancelled; slow_stat counts.
func slowRows() []blockdev.Attribute {
	var begun, done, cancelled atomic.Int64
	letGo := make(chan struct{}, 64)
	return []blockdev.Attribute{{
		Dir: blockdev.DirZramfs, Name: "slow", Mode: 0o600,
		Show: func(_ *blockdev.Device, b []byte) ([]byte, error) { return append(b, "slow\n"...), nil },
		StoreSlow: func(ctx context.Context, _ *blockdev.Device, value string) error {
			begun.Add(1)
			switch strings.TrimSpace(value) {
			case "bad":
				return blockdev.ErrRange
			case "again":
				return blockdev.ErrAgain
			}
			select {
			case <-letGo:
				done.Add(1)
				return nil
			case <-ctx.Done():
				cancelled.Add(1)
				return fmt.Errorf("slow: %w", ctx.Err())
			}
		},
	}, {
		Dir: blockdev.DirZramfs, Name: "let_go", Mode: 0o200,
		Store: func(*blockdev.Device, string) error { letGo <- struct{}{}; return nil },
	}, {
		Dir: blockdev.DirZramfs, Name: "slow_stat", Mode: 0o400,
		Show: func(_ *blockdev.Device, b []byte) ([]byte, error) {
			return fmt.Appendf(b, "%d %d %d\n", begun.Load(), done.Load(), cancelled.Load()), nil
		},
	}, {
		Dir: blockdev.DirZramfs, Name: "squares", Mode: 0o400,
		ShowAt: func(_ *blockdev.Device, b []byte, off int64) (int, error) {
			if off >= 1<<40 {
				return 0, nil
			}
			return copy(b, strconv.FormatInt(off*off, 10)), nil
		},
	}}
}

const (
	slowFile = block + "zramfs/slow"
	slowStat = block + "zramfs/slow_stat"
)

// storing starts a slow store and waits until it is under way.
func (m *mounted) storing() chan error {
	m.t.Helper()
	before := m.begun()
	end := make(chan error, 1)
	go func() {
		f, err := os.OpenFile(m.path(slowFile), os.O_WRONLY, 0)
		if err != nil {
			end <- err
			return
		}
		_, err = unix.Write(int(f.Fd()), []byte("1\n")) // not the runtime's, which tries again after EINTR
		f.Close()                                       // before the end: what is open is not unmounted
		end <- err
	}()
	for m.begun() == before {
		time.Sleep(time.Millisecond)
	}
	return end
}

func (m *mounted) begun() int {
	m.t.Helper()
	n, err := strconv.Atoi(m.column(slowStat, 0))
	if err != nil {
		m.t.Fatal(err)
	}
	return n
}

// While stores take long everything else is served, stores into the same file
// included.
func TestSlowStoreStopsNobody(t *testing.T) {
	both(t, func(t *testing.T, m *mounted) {
		first, second := m.storing(), m.storing()
		m.want(block+"disksize", "0")
		m.set(block+"disksize", "16M")
		m.want(block+"initstate", "1")
		m.want(slowFile, "slow")
		d := m.open("dev/zram0", os.O_RDWR)
		if _, err := d.WriteAt(aligned(pageSize), 0); err != nil {
			t.Error(err)
		}
		d.Close()
		if err := m.put(block+"zramfs/let_go", "1"); err != nil {
			t.Error(err)
		}
		if err := m.put(block+"zramfs/let_go", "1"); err != nil {
			t.Error(err)
		}
		if err := errors.Join(<-first, <-second); err != nil {
			t.Error(err)
		}
		m.want(slowStat, "2 2 0")
		if err := m.put(slowFile, "bad"); !errors.Is(err, unix.ERANGE) {
			t.Errorf("a bad value gets %v, want ERANGE", err)
		}
		// More than fits into a control slot.
		f := m.open(slowFile, os.O_WRONLY)
		if _, err := f.WriteString("again"); !errors.Is(err, unix.EBUSY) { // EAGAIN would never come back: f is polled
			t.Errorf("at work already, for who is not to wait: %v, want EBUSY", err)
		}
		if _, err := unix.Write(int(f.Fd()), []byte("again")); err != unix.EAGAIN { // Fd() makes it wait
			t.Errorf("at work already: %v, want EAGAIN", err)
		}
		defer f.Close()
		m.set(block+"zramfs/let_go", "1")
		if n, err := f.Write(make([]byte, 4000)); n != 4000 || err != nil {
			t.Errorf("a long value: %d, %v", n, err)
		}
	})
}

// A signal that is there to end a program ends a slow store with EINTR, and no
// other does: the Go runtime sends its threads SIGURG all the time.
func TestSlowStoreInterrupted(t *testing.T) {
	signal.Notify(make(chan os.Signal, 1), unix.SIGURG, unix.SIGUSR1, unix.SIGHUP)
	both(t, func(t *testing.T, m *mounted) {
		f := m.open(slowFile, os.O_WRONLY)
		defer f.Close()
		for i := range 5 {
			thread, end := make(chan int, 1), make(chan error, 1)
			go func() {
				runtime.LockOSThread()
				thread <- unix.Gettid()
				_, err := unix.Write(int(f.Fd()), []byte("1\n"))
				end <- err
			}()
			tid := <-thread
			if i > 0 { // the first signal may come before its request
				for m.begun() <= i-1 {
					time.Sleep(time.Millisecond)
				}
			}
			for n, done := 0, false; !done; n++ {
				if i == 4 && n < 20 {
					for _, s := range []unix.Signal{unix.SIGURG, unix.SIGUSR1} {
						if err := unix.Tgkill(os.Getpid(), tid, s); err != nil {
							t.Fatal(err)
						}
					}
				} else if err := unix.Tgkill(os.Getpid(), tid, unix.SIGHUP); err != nil {
					t.Fatal(err)
				}
				select {
				case err := <-end:
					if done = true; err != unix.EINTR || i == 4 && n < 20 {
						t.Fatalf("store %d, after %d signals: %v, want EINTR, but not for SIGURG", i, n, err)
					}
				case <-time.After(10 * time.Millisecond):
				}
			}
		}
	})
}

// A process that is killed while it stores does not hang.
func TestSlowStoreKilled(t *testing.T) {
	both(t, func(t *testing.T, m *mounted) {
		cmd := exec.Command("sh", "-c", `echo 1 >"$0"`, m.path(slowFile))
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		for m.begun() == 0 {
			time.Sleep(time.Millisecond)
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		if cmd.Wait() == nil {
			t.Error("the process was not killed")
		}
		m.want(slowStat, "1 0 1")
	})
}

// Reset does not wait for slow stores; it ends them.
func TestSlowStoreReset(t *testing.T) {
	both(t, func(t *testing.T, m *mounted) {
		m.set(block+"disksize", "16M")
		end := m.storing()
		m.set(block+"reset", "1")
		if err := <-end; err != unix.ENODEV {
			t.Errorf("a store that a reset ends gets %v, want ENODEV", err)
		}
		m.want(slowStat, "1 0 1")
	})
}

// A connection that ends, ends slow stores.
func TestSlowStoreAborted(t *testing.T) {
	both(t, func(t *testing.T, m *mounted) {
		end := m.storing()
		// It is busy, but by then its connection has ended.
		if err := unix.Unmount(m.dir, unix.MNT_FORCE); err != nil && err != unix.EBUSY {
			t.Fatal(err)
		}
		if err := <-end; !errors.Is(err, syscall.ECONNABORTED) {
			t.Errorf("a store into a connection that ends gets %v, want ECONNABORTED", err)
		}
	})
}

// Each read of what is too large to be made at once is answered by itself.
func TestShowAt(t *testing.T) {
	both(t, func(t *testing.T, m *mounted) {
		f := m.open(block+"zramfs/squares", os.O_RDONLY)
		defer f.Close()
		b := make([]byte, 64)
		for _, off := range []int64{0, 3, 4096, 1 << 30} {
			n, err := unix.Pread(int(f.Fd()), b, off) // ReadAt would read on where this one ended
			if got, want := string(b[:max(n, 0)]), strconv.FormatInt(off*off, 10); got != want {
				t.Errorf("at %d: %q, %v, want %q", off, got, err, want)
			}
		}
		if n, _ := unix.Pread(int(f.Fd()), b, 1<<40); n != 0 {
			t.Errorf("%d bytes behind the end", n)
		}
		if _, err := os.OpenFile(m.path(block+"zramfs/squares"), os.O_WRONLY, 0); !errors.Is(err, unix.EACCES) {
			t.Errorf("opened for writing: %v", err)
		}
	})
}
