package keeper

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// The worker's heap does not grow while it serves a steady load, and is not
// collected then: a cycle would stop every thread, perhaps while one of them
// waits for a page. Attribute reads leave some garbage; it is collected when
// enough has gathered, by a call of our own.
const (
	heapSlack = 8 << 20  // garbage that is let lie, bytes
	heapRoom  = 64 << 20 // above what is live, before the runtime steps in, bytes
	heapLook  = 5 * time.Second
)

const (
	metricTotal  = "/memory/classes/total:bytes"
	metricAllocs = "/gc/heap/allocs:bytes"
	metricCycles = "/gc/cycles/total:gc-cycles"
	// GOGC: all ones, so -1, when the collector is off.
	metricPercent = "/gc/gogc:percent"
)

// startHeap turns the collector off, as far as GOMEMLIMIT lets it be off, and
// starts the goroutine that tends the heap.
func startHeap() {
	debug.SetGCPercent(-1)
	samples := []metrics.Sample{{Name: metricTotal}, {Name: metricAllocs}}
	metrics.Read(samples)
	debug.SetMemoryLimit(int64(samples[0].Value.Uint64()) + heapRoom)
	go tendHeap(samples)
}

// tendHeap looks every few seconds; it allocates nothing itself. What codecs
// were given since raises the limit, so that the collector never fights them.
func tendHeap(samples []metrics.Sample) {
	last := samples[1].Value.Uint64()
	for range time.Tick(heapLook) {
		metrics.Read(samples)
		if samples[1].Value.Uint64()-last < heapSlack {
			continue
		}
		runtime.GC()
		metrics.Read(samples)
		last = samples[1].Value.Uint64()
		debug.SetMemoryLimit(int64(samples[0].Value.Uint64()) + heapRoom)
	}
}
