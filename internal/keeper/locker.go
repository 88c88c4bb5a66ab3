package keeper

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/zramfs/zramfs/internal/shm"
)

// locker holds memory that the kernel could swap out while no worker has it
// locked: where there is no tmpfs with noswap, the keeper maps the regions, too,
// and populates each piece before a worker uses it. The keeper's memory is
// locked, so what it has populated stays. The zero locker holds nothing.
//
// Pages of tables come into being one at a time, at the first write to a part
// of a disk, which cannot wait for the keeper: they are found by looking, every
// second, and until then the worker has them locked. What swapon makes is
// populated beforehand.
type locker struct {
	regions map[string]*pinned
}

// pinned is a region of which the keeper holds the pages.
type pinned struct {
	region *shm.Region        // immutable
	asked  map[int64]struct{} // pieces that workers ask for before they use them, and need not be looked at
}

const (
	piece   = 2 << 20 // bytes that a worker asks for at once
	pinTime = time.Second
)

// pin takes up a region.
func (l *locker) pin(name string, f *os.File) (*pinned, error) {
	if p := l.regions[name]; p != nil {
		return p, nil
	}
	// Opened anew: looking for data moves the position, and a worker does, too.
	own, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", name, err)
	}
	r, err := shm.Adopt(name, own)
	if err != nil {
		own.Close()
		return nil, err
	}
	if l.regions == nil {
		l.regions = make(map[string]*pinned)
	}
	l.regions[name] = &pinned{r, make(map[int64]struct{})}
	return l.regions[name], nil
}

// hold populates a range of a region in this process.
func (l *locker) hold(name string, f *os.File, off, n int64) error {
	p, err := l.pin(name, f)
	if err != nil {
		return err
	}
	if err := p.region.Populate(off, n); err != nil {
		return err
	}
	for at := roundTo(off, piece); at+piece <= off+n; at += piece {
		p.asked[at] = struct{}{}
	}
	return nil
}

// look populates what there is of a region beside the pieces that are asked for.
func (p *pinned) look() error {
	var failed error
	err := p.region.Data(func(off, n int64) bool {
		for end := off + n; off < end && failed == nil; {
			next := min(off&^(piece-1)+piece, end)
			if _, asked := p.asked[off&^(piece-1)]; !asked {
				failed = p.region.Populate(off, next-off)
			}
			off = next
		}
		return failed == nil
	})
	return errors.Join(err, failed)
}

func (l *locker) forget(name string) {
	if p := l.regions[name]; p != nil {
		_ = p.region.Close() // one that cannot be unmapped is no worse than one that is kept
		delete(l.regions, name)
	}
}

// lockHeld takes up everything that the kernel could swap out.
func (k *keeper) lockHeld() error {
	if k.source.NoSwap() {
		return nil
	}
	buffers := roundUp(k.held.layout.Bytes(len(k.held.cpus)))
	if err := k.locker.hold(roleBuffers, k.held.buffers, 0, buffers); err != nil {
		return err
	}
	for name, f := range k.held.regions {
		if isBacking(name) {
			continue
		}
		if _, err := k.locker.pin(name, f); err != nil {
			return err
		}
	}
	k.lookForMore()
	return nil
}

// lookForMore locks what has come into being without being asked for.
func (k *keeper) lookForMore() {
	if k.source.NoSwap() {
		return
	}
	k.due.look = time.Now().Add(pinTime)
	for _, p := range k.locker.regions {
		if err := p.look(); err != nil {
			k.say("%v: some of it may be swapped out", err)
			k.due.look = time.Now().Add(maxPause)
		}
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
