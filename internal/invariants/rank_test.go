//go:build invariants

package invariants

import (
	"sync"
	"testing"
)

func panics(f func()) (did bool) {
	defer func() { did = recover() != nil }()
	f()
	return false
}

func TestRanks(t *testing.T) {
	Acquire(RankSlot)
	Acquire(RankSlab)
	if !panics(func() { Acquire(RankStream) }) {
		t.Error("a stream was taken under a slab")
	}
	if !panics(func() { Acquire(RankSlab) }) {
		t.Error("a slab was taken under a slab")
	}
	Acquired(RankSlot) // a try may
	Release(RankSlot)
	var other sync.WaitGroup
	other.Go(func() {
		Acquire(RankSlot) // another goroutine holds nothing
		Release(RankSlot)
	})
	other.Wait()
	Release(RankSlab)
	Release(RankSlot)
	if !panics(func() { Release(RankSlot) }) {
		t.Error("a lock was released that nobody held")
	}
	Acquire(RankDevice)
	Release(RankDevice)
}
