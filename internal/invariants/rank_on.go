//go:build invariants

package invariants

import (
	"fmt"
	"runtime"
	"slices"
	"sync"
)

// held lists the ranks that each goroutine holds, by its number.
var held sync.Map // string → []Rank; a goroutine touches only its own entry

// goroutine names the caller's goroutine: the runtime tells it only in a
// stack trace, "goroutine 12 [running]:".
func goroutine() string {
	var buf [32]byte
	b := buf[:runtime.Stack(buf[:], false)]
	if i := slices.Index(b, '['); i > 0 {
		b = b[:i]
	}
	return string(b)
}

// Acquire notes that the caller is about to take a lock, and panics if it
// holds one of the same rank or a later one.
func Acquire(r Rank) {
	g := goroutine()
	mine, _ := held.Load(g)
	ranks, _ := mine.([]Rank)
	if len(ranks) > 0 {
		if top := slices.Max(ranks); top >= r {
			panic(fmt.Sprintf("invariants: a lock of rank %d is taken while one of rank %d is held", r, top))
		}
	}
	held.Store(g, append(ranks, r))
}

// Acquired notes a lock that was taken by a try, which may break the order,
// since it does not wait.
func Acquired(r Rank) {
	g := goroutine()
	mine, _ := held.Load(g)
	ranks, _ := mine.([]Rank)
	held.Store(g, append(ranks, r))
}

// Release notes that the caller gives a lock back.
func Release(r Rank) {
	g := goroutine()
	mine, _ := held.Load(g)
	ranks, _ := mine.([]Rank)
	i := slices.Index(ranks, r)
	if i < 0 {
		panic(fmt.Sprintf("invariants: a lock of rank %d is released that was not held", r))
	}
	if ranks = slices.Delete(ranks, i, i+1); len(ranks) == 0 {
		held.Delete(g)
		return
	}
	held.Store(g, ranks)
}
