package blockdev

import (
	"bytes"
	"errors"
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

// A check and a shrink wait neither for upkeep, which may wait for memory that only
// requests free, nor for requests that wait for upkeep; and who came while the
// gate was shut is let in without it.
func TestCheckWhileMemoryIsShort(t *testing.T) {
	const slots = 4096
	var machine stuck
	cfg := testConfig(t)
	cfg.ReserveLow, cfg.ReserveHigh, cfg.RoomWait = 1<<20, 2<<20, time.Hour
	cfg.faults = machine.faults()
	d := newDevice(t, slots*PageSize, cfg)
	k := d.disk.Load()
	resume := machine.begin(t)
	in := func(what string, f func() error) {
		t.Helper()
		late := time.AfterFunc(hang, resume)
		if err := f(); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if !late.Stop() {
			t.Fatalf("%s waits for memory", what)
		}
	}
	var pages [][]byte
	answers := make(chan error, slots)
	submit := func() (parked bool) {
		pages = append(pages, incompressible())
		r := &Request{Op: OpWrite, Data: pages[len(pages)-1], Off: int64(len(pages)-1) * PageSize,
			Done: func(_ *Request, _ int, err error) { answers <- err }}
		_, parked, err := d.Submit(r)
		if err != nil {
			t.Fatal(err)
		}
		return parked
	}
	for range 300 { // more than what upkeep lets be, less than there is
		if submit() {
			t.Fatal("a write is parked while there is a reserve")
		}
	}
	eventually(t, "that upkeep asks for memory", func() bool { return machine.waiting.Load() > 0 })
	in("a check", d.Check)
	in("a check beside the I/O", func() error { return store(d, "check", "1") })
	for !submit() {
	}
	for range 20 {
		submit()
	}
	in("a check with writes that wait for room", d.Check)
	in("a shrink", func() error { return d.Resize((slots - 1) * PageSize) })
	in("a read that came while the disk was quiet", func() error {
		got, read := make([]byte, PageSize), make(chan error, 1)
		d.mu.Lock()
		err := d.quiet(k, func() error {
			r := &Request{Op: OpRead, Data: got, Done: func(_ *Request, _ int, err error) { read <- err }}
			if _, parked, err := d.Submit(r); !parked {
				t.Errorf("it is answered while the gate is shut: %v", err)
			}
			return nil
		})
		d.mu.Unlock()
		if err = errors.Join(err, <-read); err == nil && !bytes.Equal(got, pages[0]) {
			t.Error("it reads another page")
		}
		return err
	})
	if len(answers) != 0 || machine.waiting.Load() == 0 {
		t.Errorf("%d writes are answered for which there is no memory", len(answers))
	}
	resume()
	for range 21 {
		if err := <-answers; err != nil {
			t.Error(err)
		}
	}
	wantPages(t, d, pages)
}
