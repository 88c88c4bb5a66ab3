package keeper

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/zramfs/zramfs/internal/shm"
)

// locker holds memory that the kernel could swap out while no worker has it
// locked: where there is no tmpfs with noswap, the keeper maps the regions, too,
// and populates each piece before a worker uses it. The keeper's memory is
// locked, so what it has populated stays. The zero locker holds nothing.
type locker struct {
	regions map[string]*shm.Region
}

// hold populates a range of a region in this process.
func (l *locker) hold(name string, f *os.File, off, n int64) error {
	r := l.regions[name]
	if r == nil {
		fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("lock %s: %w", name, err)
		}
		own := os.NewFile(uintptr(fd), name)
		if r, err = shm.Adopt(name, own); err != nil {
			own.Close()
			return err
		}
		if l.regions == nil {
			l.regions = make(map[string]*shm.Region)
		}
		l.regions[name] = r
	}
	return r.Populate(off, n)
}

// holdAll populates everything that a region holds.
func (l *locker) holdAll(name string, f *os.File) error {
	if err := l.hold(name, f, 0, 0); err != nil {
		return err
	}
	r := l.regions[name]
	var failed error
	err := r.Data(func(off, n int64) bool {
		failed = r.Populate(off, n)
		return failed == nil
	})
	return errors.Join(err, failed)
}

func (l *locker) forget(name string) {
	if r := l.regions[name]; r != nil {
		_ = r.Close() // one that cannot be unmapped is no worse than one that is kept
		delete(l.regions, name)
	}
}

// populate does what a worker asked for, and says how it went.
func (k *keeper) populate(p *process, name string, r populating) {
	answer := message{Kind: msgPopulated, Range: &r}
	err := fmt.Errorf("populate: no region %q", name)
	if f := k.held.regions[name]; f != nil {
		err = k.locker.hold(name, f, r.Off, r.N)
	}
	if err != nil {
		answer.Failed = failureOf(err)
	}
	k.sent(p, p.control.send(answer))
}

// asking is the worker's side: one range at a time.
type asking struct {
	turn sync.Mutex // held by who asks

	mu      sync.Mutex
	pending *message // not answered yet; guarded by mu
	number  uint64   // of the last; guarded by mu
	done    chan *failure
}

// pin has a region's memory locked by the keeper before it is used here.
func (w *worker) pin(name string, r *shm.Region) {
	if w.source.NoSwap() || w.buffers == nil {
		return
	}
	r.BeforePopulate = func(off, n int64) error { return w.askPopulate(name, off, n) }
}

// askPopulate waits for the keeper to populate a range. Upkeep calls it, never
// a reader.
func (w *worker) askPopulate(name string, off, n int64) error {
	a := &w.asking
	a.turn.Lock()
	defer a.turn.Unlock()
	a.mu.Lock()
	a.number++
	a.pending = &message{Kind: msgPopulate, Name: name, Range: &populating{a.number, off, n}}
	a.done = make(chan *failure, 1)
	done := a.done
	m := *a.pending
	a.mu.Unlock()
	_ = w.tell(m) // a keeper that is gone is replaced, and the next is asked again
	if failed := <-done; failed != nil {
		return failed.error()
	}
	return nil
}

func (a *asking) answer(m message) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.pending != nil && a.pending.Range.Number == m.Range.Number {
		a.pending = nil
		a.done <- m.Failed
	}
}

// again gives what a keeper did not answer before it died, nil if nothing.
func (a *asking) again() *message {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.pending
}
