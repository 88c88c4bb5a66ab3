package blockdev

import (
	"sync/atomic"
	"time"

	"github.com/zramfs/zramfs/internal/percpu"
)

// gate is open while requests run. It is sharded by stream, so that two CPUs
// enter without writing one cache line.
//
// Invariant: after shut, no request is inside and none enters until open.
type gate struct {
	closed atomic.Bool
	shards []gateShard // immutable slice
	nudge  func()      // immutable; takes those out who wait inside, while it is being shut; or nil
}

type gateShard struct {
	inside atomic.Int64
	_      [percpu.CacheLine - 8]byte
}

func newGate(shards int) gate { return gate{shards: make([]gateShard, shards)} }

// enter lets a request in, unless the gate is shut.
func (g *gate) enter(shard int) bool {
	g.shards[shard].inside.Add(1)
	if g.closed.Load() {
		g.shards[shard].inside.Add(-1)
		return false
	}
	return true
}

// leave lets a request out; the shard is the one it entered by.
func (g *gate) leave(shard int) { g.shards[shard].inside.Add(-1) }

// shut closes the gate and waits until nobody is inside. It sleeps: for
// control operations only.
func (g *gate) shut() {
	g.closed.Store(true)
	for g.inside() != 0 {
		if g.nudge != nil {
			g.nudge()
		}
		time.Sleep(100 * time.Microsecond)
	}
}

func (g *gate) open() { g.closed.Store(false) }

func (g *gate) inside() (n int64) {
	for i := range g.shards {
		n += g.shards[i].inside.Load()
	}
	return n
}
