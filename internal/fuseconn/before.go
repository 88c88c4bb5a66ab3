package fuseconn

import (
	"slices"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// before is what a connection knows of the workers before it, and when it was
// the first to answer again.
type before struct {
	poison []uint64     // ids; immutable from Init on
	first  atomic.Int64 // CLOCK_MONOTONIC, nanoseconds; 0: nothing was answered yet
}

// poisons says whether a request that comes again is to be refused.
func (b *before) poisons(unique uint64) bool { return slices.Contains(b.poison, unique&^resent) }

// answered notes the time of the first answer. Later it costs a load.
func (b *before) answered() {
	if b.first.Load() != 0 {
		return
	}
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err == nil {
		b.first.CompareAndSwap(0, ts.Nano())
	}
}
