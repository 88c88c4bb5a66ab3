//go:build !invariants

package invariants

// Acquire notes that the caller is about to take a lock, and panics if it
// holds one that must come later. It costs nothing in this build.
func Acquire(Rank) {}

// Acquired notes a lock that was taken by a try, which may break the order,
// since it does not wait.
func Acquired(Rank) {}

// Release notes that the caller gives a lock back.
func Release(Rank) {}
