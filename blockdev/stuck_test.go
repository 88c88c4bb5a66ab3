package blockdev

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/zramfs/zramfs/internal/shm"
	"github.com/zramfs/zramfs/pool"
)

// hang is how long something is let take that must not wait, before the test ends
// what it waits for.
const hang = 10 * time.Second

// stuck is a machine that has no memory to give while it is stuck: who asks for
// some, for the arena, waits.
type stuck struct {
	mu      sync.Mutex
	stall   chan struct{} // guarded by mu; nil: there is memory
	waiting atomic.Int64
}

// faults has a disk's memory come from the machine.
func (s *stuck) faults() *faults {
	return &faults{wrap: func(m pool.Memory) pool.Memory {
		if m.(*shm.Window).Size() < 2<<20 {
			return m // the side array
		}
		return stuckMemory{m, s}
	}}
}

// begin makes it stuck until the function that it gives is called, or the test
// ends.
func (s *stuck) begin(t *testing.T) (end func()) {
	stall := make(chan struct{})
	s.mu.Lock()
	s.stall = stall
	s.mu.Unlock()
	end = sync.OnceFunc(func() {
		s.mu.Lock()
		s.stall = nil
		s.mu.Unlock()
		close(stall)
	})
	t.Cleanup(end)
	return end
}

type stuckMemory struct {
	pool.Memory
	machine *stuck
}

func (m stuckMemory) Populate(off, n int64) error {
	m.machine.mu.Lock()
	stall := m.machine.stall
	m.machine.mu.Unlock()
	if stall != nil {
		m.machine.waiting.Add(1)
		<-stall
		m.machine.waiting.Add(-1)
	}
	return m.Memory.Populate(off, n)
}

// Who takes a disk over serves it before the machine has given it a page.
func TestAdoptNeedsNoMemory(t *testing.T) {
	const slots = 256
	var machine stuck
	g := newGenerations(t, slots*PageSize, testConfig(t))
	pages := make([][]byte, slots)
	for slot := range pages {
		pages[slot] = incompressible()
		write(t, g.d, pages[slot], int64(slot)*PageSize)
	}
	k := g.d.disk.Load()
	if err := g.d.Check(); err != nil {
		t.Fatal(err)
	}
	k.end()
	close(k.stop)
	k.wg.Wait()
	g.cfg.ReserveHigh *= 4 // of which the machine has nothing to give
	g.cfg.faults = machine.faults()
	resume := machine.begin(t)
	late := time.AfterFunc(hang, resume)
	g.adopt(k)
	defer g.end()
	if !late.Stop() {
		t.Fatal("a disk is taken over when the machine has memory again")
	}
	eventually(t, "that upkeep asks for memory", func() bool { return machine.waiting.Load() > 0 })
	wantPages(t, g.d, pages)
	pages[7] = incompressible()
	write(t, g.d, pages[7], 7*PageSize)
	wantPages(t, g.d, pages)
	resume()
	eventually(t, "a full reserve", func() bool {
		return g.d.disk.Load().pool.Stats().Reserve*PageSize >= g.cfg.ReserveHigh
	})
	wantPages(t, g.d, pages)
}
