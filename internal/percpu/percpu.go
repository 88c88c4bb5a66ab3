// Package percpu knows which CPUs this process may run on, ties a thread to
// one of them, and counts without two CPUs writing one cache line.
//
// It never starts a thread or a goroutine.
package percpu

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// CacheLine is the assumed size of a cache line, doubled because adjacent-line
// prefetch makes pairs of lines travel together.
const CacheLine = 128

// Allowed lists the CPUs of this process's affinity mask, ascending.
func Allowed() ([]int, error) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return nil, fmt.Errorf("percpu: read affinity: %w", err)
	}
	cpus := make([]int, 0, set.Count())
	for cpu := 0; len(cpus) < set.Count(); cpu++ {
		if set.IsSet(cpu) {
			cpus = append(cpus, cpu)
		}
	}
	return cpus, nil
}

// Possible is how many CPUs this machine may ever have: each has a smaller
// number.
func Possible() (int, error) {
	text, err := os.ReadFile("/sys/devices/system/cpu/possible")
	if err != nil {
		return 0, fmt.Errorf("percpu: %w", err)
	}
	list := strings.TrimSpace(string(text)) // as 0-3,8
	last, err := strconv.Atoi(list[strings.LastIndexAny(list, ",-")+1:])
	if err != nil {
		return 0, fmt.Errorf("percpu: possible CPUs %q: %w", list, err)
	}
	return last + 1, nil
}

// Pin ties the calling thread to one CPU. The caller has locked its goroutine
// to the thread.
func Pin(cpu int) error {
	var set unix.CPUSet
	set.Set(cpu)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return fmt.Errorf("percpu: pin thread to cpu %d: %w", cpu, err)
	}
	return nil
}

// Counter is an event counter alone on its cache lines. A Counter per stream,
// summed by whoever reads, keeps the I/O path free of shared writes.
type Counter struct {
	n atomic.Uint64
	_ [CacheLine - 8]byte
}

// Add counts n more.
func (c *Counter) Add(n uint64) { c.n.Add(n) }

// Load reads the count.
func (c *Counter) Load() uint64 { return c.n.Load() }
