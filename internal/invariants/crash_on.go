//go:build crashpoints

package invariants

import (
	"strings"
	"sync/atomic"
)

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
	only      atomic.Value // of a []string: prefixes of the names that count; empty: all do
	watcher   atomic.Pointer[func(string)]
)

// Watch has f called at every CrashPoint, whatever Arm said; nil ends it.
func Watch(f func(name string)) {
	if f == nil {
		watcher.Store(nil)
		return
	}
	watcher.Store(&f)
}

// Arm makes the k-th CrashPoint from now panic with a Crash (k from 1), once.
// k = 0 disarms and only counts.
// With prefixes only points whose names begin with one of them count, so that
// goroutines that pass others do not matter.
func Arm(k int64, prefixes ...string) {
	only.Store(prefixes)
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
	if f := watcher.Load(); f != nil {
		(*f)(name)
	}
	if !counts(name) {
		return
	}
	n := passed.Add(1)
	if countdown.Load() < 0 {
		return
	}
	if countdown.Add(-1) == 0 {
		countdown.Store(-1)
		panic(Crash{Point: name, Nth: n})
	}
}

func counts(name string) bool {
	prefixes, _ := only.Load().([]string)
	for _, p := range prefixes {
		if strings.HasPrefix(name, p) {
			return true
		}
	}
	return len(prefixes) == 0
}

// Dies runs f, and says where it died; nil if it came to its end. Any other panic
// goes on.
func Dies(f func()) (at *Crash) {
	defer func() {
		if r := recover(); r != nil {
			c, ok := r.(Crash)
			if !ok {
				panic(r)
			}
			at = &c
		}
	}()
	f()
	return nil
}

// DiesAt is Dies, by the name of the point; "" if it came to its end.
func DiesAt(f func()) (point string) {
	if c := Dies(f); c != nil {
		return c.Point
	}
	return ""
}

// Copy is copy, with a CrashPoint in the middle of it.
func Copy(name string, dst, src []byte) {
	half := len(src) / 2
	copy(dst, src[:half])
	CrashPoint(name)
	copy(dst[half:], src[half:])
}

// Clear is clear, with a CrashPoint in the middle of it.
func Clear(name string, b []byte) {
	half := len(b) / 2
	clear(b[:half])
	CrashPoint(name)
	clear(b[half:])
}
