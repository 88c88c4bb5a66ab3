//go:build crashpoints

package invariants

import "sync/atomic"

// CrashPoints says whether CrashPoint can stop the caller.
const CrashPoints = true

// Crash is what CrashPoint panics with: the death of a worker, in a test.
type Crash struct {
	Point string // the name given to CrashPoint
	Nth   int64  // which call it was since Arm
}

var (
	countdown atomic.Int64 // calls left until the crash; < 0: disarmed
	passed    atomic.Int64 // calls since Arm
)

// Arm makes the k-th CrashPoint from now panic with a Crash (k from 1), once.
// k = 0 disarms and only counts.
func Arm(k int64) {
	passed.Store(0)
	if k <= 0 {
		countdown.Store(-1)
		return
	}
	countdown.Store(k)
}

// Passed says how many points were passed since Arm.
func Passed() int64 { return passed.Load() }

// CrashPoint marks a place between two stores to shared memory.
func CrashPoint(name string) {
	n := passed.Add(1)
	if countdown.Load() < 0 {
		return
	}
	if countdown.Add(-1) == 0 {
		countdown.Store(-1)
		panic(Crash{Point: name, Nth: n})
	}
}
