package blockdev

import (
	"context"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/zramfs/zramfs/internal/shm"
	"github.com/zramfs/zramfs/pool"
)

// generations is a device whose worker can be killed: a set over a ledger and a
// region that outlive it.
type generations struct {
	t     *testing.T
	cfg   Config
	src   *source
	set   *Set
	dying atomic.Bool // compressors die at their next page

	passing  atomic.Bool  // recompression dies
	passLeft atomic.Int64 // after so many pages

	mu sync.RWMutex // held while the device changes hands
	d  *Device      // guarded by mu

	kills, replayed, midway int
}

func newGenerations(t *testing.T, size int64, cfg Config) *generations {
	t.Helper()
	g := &generations{t: t, cfg: cfg}
	g.src = cfg.Source.(*source)
	g.cfg.Ledger = make([]byte, LedgerBytes)
	g.cfg.faults = &faults{compress: func() error {
		if g.dying.Load() && inCompressor() {
			runtime.Goexit()
		}
		if g.passing.Load() && g.passLeft.Add(-1) < 0 {
			runtime.Goexit()
		}
		return nil
	}}
	var err error
	if g.set, err = NewSet(g.cfg); err != nil {
		t.Fatal(err)
	}
	id, err := g.set.HotAdd()
	if err != nil {
		t.Fatal(err)
	}
	g.d = g.set.Device(id)
	if size == 0 {
		return g // the test sets other things first
	}
	if err := g.d.SetSize(size); err != nil {
		t.Fatal(err)
	}
	return g
}

// inCompressor says whether the caller is a stream's compressor.
func inCompressor() bool {
	var stack [4096]byte
	return strings.Contains(string(stack[:runtime.Stack(stack[:], false)]), "runCompressor")
}

// fatalMover is a disk whose compaction dies after a few moves.
type fatalMover struct {
	*disk
	left int
}

func (m *fatalMover) Move(owner uint32, from, to pool.Place) bool {
	if m.left--; m.left < 0 {
		runtime.Goexit()
	}
	return m.disk.Move(owner, from, to)
}

// kill ends the worker without closing anything, at rest or in the middle of
// compression or compaction, and has another adopt what it left.
func (g *generations) kill(r *rand.Rand) {
	g.t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	old := g.d.disk.Load()
	rest := true
	if r.IntN(2) == 0 && old.frames != nil && old.frames.InUse() != 0 {
		g.dying.Store(true)
		rest = false
	}
	close(old.stop)
	old.wg.Wait()
	g.dying.Store(false)
	if r.IntN(3) == 0 {
		died := make(chan struct{})
		go func() {
			defer close(died)
			_, _ = old.pool.Compact(&fatalMover{old, r.IntN(20)})
		}()
		<-died
		rest = false
	}
	if _, ok := old.secondary(1); ok && r.IntN(3) == 0 {
		g.passLeft.Store(r.Int64N(20))
		g.passing.Store(true)
		died := make(chan struct{})
		go func() {
			defer close(died)
			_, _ = old.recompressPass(context.Background(), recompressOptions{})
		}()
		<-died
		g.passing.Store(false)
		rest = false
	}
	if !rest {
		g.midway++
	}
	if found := g.adopt(old); found.Devices != 1 || found.Corrupt != 0 || rest && found.Reclaimed != 0 {
		g.t.Fatalf("kill %d, at rest %v: the next worker found %+v", g.kills, rest, found)
	}
	g.kills++
	if err := g.d.Check(); err != nil {
		g.t.Fatalf("kill %d: %v", g.kills, err)
	}
}

// adopt makes the next worker over what a disk that is dead left.
func (g *generations) adopt(old *disk) Recovered {
	g.t.Helper()
	again, err := remap(old.region)
	if err != nil {
		g.t.Fatal(err)
	}
	set, err := NewSet(g.cfg)
	if err != nil {
		g.t.Fatal(err)
	}
	found, err := set.Adopt(map[string]*shm.Region{g.d.Name(): again})
	if err != nil {
		g.t.Fatal(err)
	}
	if err := old.pool.Close(); err != nil {
		g.t.Error(err)
	}
	if err := old.region.Close(); err != nil {
		g.t.Error(err)
	}
	g.set, g.d = set, set.Device(g.d.ID())
	return found
}

// device is the one of the worker that serves now.
func (g *generations) device() *Device {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return g.d
}

// do has a request answered. With a fate other than nil the worker is killed
// after it took the request; one that it has parked is sent again to the next.
func (g *generations) do(request func() *Request, fate *rand.Rand) (*Request, int, error) {
	r := request()
	if fate == nil {
		n, err := g.device().Do(r)
		return r, n, err
	}
	type answer struct {
		n   int
		err error
	}
	answered := make(chan answer, 1)
	r.Done = func(_ *Request, n int, err error) { answered <- answer{n, err} }
	k := g.device().disk.Load()
	if fate.IntN(2) == 0 {
		k.gate.closed.Store(true) // as while a check runs: it is parked
		k.end()                   // kill waits for compactions, which rest meanwhile
	}
	n, parked, err := g.device().Submit(r)
	g.kill(fate)
	if !parked {
		return r, n, err
	}
	select {
	case a := <-answered: // upkeep or a compressor finished it before it died
		return r, a.n, a.err
	default:
	}
	g.replayed++
	r = request()
	n, err = g.device().Do(r)
	return r, n, err
}

// end closes what is left, once it has passed its check.
func (g *generations) end() {
	g.t.Helper()
	if err := g.d.Check(); err != nil {
		g.t.Errorf("Check: %v", err)
	}
	if err := g.set.Close(); err != nil {
		g.t.Error(err)
	}
}
