package blockdev

import (
	"sync/atomic"
	"time"

	"github.com/zramfs/zramfs/pool"
)

// faults lets a test make an operation fail that otherwise hardly ever does.
type faults struct {
	wrap     func(pool.Memory) pool.Memory // around the pool's memory
	compress func() error                  // before each compression
	put      func() error                  // before each allocation
	later    atomic.Int64                  // seconds that the policy's clock is ahead
	device   time.Duration                 // how long the ladder lets a backing device take; 0: policyWait
}

// memory wraps the pool's memory.
func (f *faults) memory(m pool.Memory) pool.Memory {
	if f == nil || f.wrap == nil {
		return m
	}
	return f.wrap(m)
}

func (f *faults) beforeCompress() error {
	if f == nil || f.compress == nil {
		return nil
	}
	return f.compress()
}

func (f *faults) beforePut() error {
	if f == nil || f.put == nil {
		return nil
	}
	return f.put()
}

func (f *faults) deviceWait() time.Duration {
	if f == nil || f.device == 0 {
		return policyWait
	}
	return f.device
}

func (f *faults) ahead() int64 {
	if f == nil {
		return 0
	}
	return f.later.Load()
}
