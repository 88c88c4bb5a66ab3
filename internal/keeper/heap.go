package keeper

import (
	"errors"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"
	"unsafe"

	"github.com/zramfs/zramfs/internal/host"
)

// The worker's heap does not grow while it serves a steady load, and is not
// collected then: a cycle would stop every thread, perhaps while one of them
// waits for a page. Attribute reads leave some garbage; it is collected when
// enough has gathered, by a call of our own, and while memory is short not
// before it must be: until then it lies in memory that was populated beforehand.
// Whoever took more would wait for a page, and a cycle would wait for him.
const (
	heapRoom = 64 << 20 // above what is live, before the runtime steps in, bytes
	heapLook = 250 * time.Millisecond
	// smallHeap is more than lives on the heap without tables of a codec.
	smallHeap = 1280 << 10
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
	samples := []metrics.Sample{{Name: metricTotal}, {Name: metricAllocs}, {Name: metricCycles}}
	metrics.Read(samples)
	debug.SetMemoryLimit(int64(samples[0].Value.Uint64()) + heapRoom)
	go tendHeap(samples)
}

// tendHeap looks now and then; it allocates nothing itself. What codecs were
// given since raises the limit, so that the collector never fights them.
func tendHeap(samples []metrics.Sample) {
	meter, err := host.OpenMeter() // without one it collects late
	last, cycles := samples[1].Value.Uint64(), samples[2].Value.Uint64()
	slack := uint64(heapSlack() / 2) // the other half is for times when it should not collect
	most := uint64(heapSlack()) / 4 * 3
	for range time.Tick(heapLook) {
		metrics.Read(samples)
		garbage := samples[1].Value.Uint64() - last
		if samples[2].Value.Uint64() == cycles && garbage < slack {
			continue
		}
		if garbage < most && (err != nil || scarce(meter)) {
			continue
		}
		if samples[2].Value.Uint64() == cycles { // else settleHeap has collected
			runtime.GC()
			metrics.Read(samples)
		}
		last, cycles = samples[1].Value.Uint64(), samples[2].Value.Uint64()
		debug.SetMemoryLimit(int64(samples[0].Value.Uint64()) + heapRoom)
	}
}

// scarce says whether the machine has so little memory left that a page for
// the collector might have to be waited for.
func scarce(m *host.Meter) bool {
	total, available, ok := m.Memory()
	return !ok || short(total, available)
}

// settleHeap is for the end of all preparations: what is on the heap, or will
// be by the next cycle, faults no more, and the collector and the allocator
// have what they need for a cycle's garbage, since they have seen one. Whoever
// faults may have to wait for memory.
func settleHeap() error {
	const largest = 32 << 10 // of what the runtime has size classes for
	slack := heapSlack()
	var garbage []byte // all of it, since the collector is off
	for size := 8; size <= largest; size *= 2 {
		for range max(int(slack)/16/size, 1) {
			garbage = make([]byte, size)
		}
	}
	runtime.KeepAlive(garbage)
	runtime.GC() // finds it
	runtime.GC() // has swept it
	samples := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(samples)
	anchor := new([64]byte)
	heap := uintptr(unsafe.Pointer(anchor))
	err := host.PopulateHeap(heap, slack, samples[0].Value.Uint64() > smallHeap)
	err = errors.Join(err, host.PopulateRuntime(heap))
	runtime.KeepAlive(anchor)
	return err
}
