package host

import (
	"encoding/binary"
	"fmt"
	"os"
	"slices"
)

// Populating all that a process has mapped would hold twice the memory that it
// will ever use: the Go runtime's tables and heap are thin. So these populate
// what exists, what lies near it, and what is filled next.

const (
	// A mapping that is larger is a reservation, for heaps that this process will
	// never have or for tables of the store, which populates what it uses.
	largestRuntime = 2 << 20
	// The runtime fills its tables from one end, a little at a time.
	nearTable = 64 << 10
	// A thread's stack is at most so large, and seldom used to its end.
	nearStack = 32 << 10
	// So much of the zeroed data is in use; what follows is one array for
	// modules that this program does not use.
	zeroedData = 512 << 10
)

// PopulateHeap has the Go heap mapped and written to: what exists of the mapping
// that holds an address in it, the stacks of threads, which lie in it, and the
// next bytes to be allocated, more of them. whole is for a heap in which much is
// allocated that was never written to, tables of a codec: it cannot be told from
// what is free.
func PopulateHeap(address uintptr, more int64, whole bool) error {
	ranges, err := addresses(func(permissions, _ string) bool { return permissions == "rw-p" })
	for _, r := range ranges {
		if err == nil && r.start <= address && address < r.end {
			err = r.populateSome(nearStack, more, whole)
		}
	}
	if err != nil {
		return fmt.Errorf("populate heap: %w", err)
	}
	return nil
}

// PopulateRuntime does the same for all that the runtime keeps beside the heap:
// tables that grow at the first use of something, such as that of conversions
// between types, and the program's zeroed data. What was only read is the
// kernel's page of zeroes, and faults when it is written.
func PopulateRuntime(heap uintptr) error {
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("populate runtime: %w", err)
	}
	data := uintptr(0) // end of the program's data
	ranges, err := addresses(func(permissions, name string) bool {
		return permissions == "rw-p" && (name == "" || name == exe)
	})
	for _, r := range ranges {
		switch {
		case err != nil:
		case r.name != "":
			data = r.end
		case r.start == data:
			r.end = min(r.end, r.start+zeroedData)
			err = r.populate()
		case r.start <= heap && heap < r.end || r.end-r.start > largestRuntime:
		default:
			err = r.populateSome(nearTable, 0, false)
		}
	}
	if err != nil {
		return fmt.Errorf("populate runtime: %w", err)
	}
	return nil
}

// populateSome populates what exists of a mapping and what lies near it, and
// more bytes of the rest, from its beginning; whole: the rest up to the last page
// that exists, too.
func (r addressRange) populateSome(near uintptr, more int64, whole bool) error {
	found, err := r.present()
	if err != nil {
		return err
	}
	if whole && len(found) > 0 {
		found = []addressRange{r.part(r.start, found[len(found)-1].end)}
	}
	wide := r.widened(found, near)
	for _, part := range append(wide, r.gaps(wide, more)...) {
		if err := part.populate(); err != nil {
			return err
		}
	}
	return nil
}

// part is the part of a mapping between two addresses.
func (r addressRange) part(start, end uintptr) addressRange {
	r.start, r.end = start, end
	return r
}

// widened adds to each part of a mapping what lies near it; they are in order,
// and so are those that come of it.
func (r addressRange) widened(parts []addressRange, near uintptr) []addressRange {
	var wide []addressRange
	for _, p := range parts {
		start, end := r.start+max(p.start-r.start, near)-near, min(p.end+near, r.end)
		if n := len(wide); n > 0 && start <= wide[n-1].end {
			wide[n-1].end = end
			continue
		}
		wide = append(wide, r.part(start, end))
	}
	return wide
}

// gaps is what lies between parts and behind them, the first bytes of it.
func (r addressRange) gaps(parts []addressRange, bytes int64) []addressRange {
	var between []addressRange
	at, left := r.start, uintptr(bytes+pageMask)&^pageMask
	for _, p := range append(slices.Clip(parts), r.part(r.end, r.end)) {
		if n := min(p.start-at, left); n > 0 {
			between = append(between, r.part(at, at+n))
			left -= n
		}
		at = p.end
	}
	return between
}

// exists says whether a page exists by its entry of pagemap
// (linux/Documentation/admin-guide/mm/pagemap.rst): it is in memory, or in swap,
// where it went before the process locked its memory and where it would stay
// until it is touched. That may be when nobody serves swap.
func exists(entry uint64) bool {
	const inMemory, inSwap = 1 << 63, 1 << 62
	return entry&(inMemory|inSwap) != 0
}

// present lists the parts of a mapping whose pages exist.
func (r addressRange) present() ([]addressRange, error) {
	const entry = 8
	f, err := os.Open("/proc/self/pagemap")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var found []addressRange
	buf := make([]byte, 512*entry)
	for at := r.start; at < r.end; {
		some := buf[:min(uintptr(len(buf)), (r.end-at)/(pageMask+1)*entry)]
		if _, err := f.ReadAt(some, int64(at/(pageMask+1)*entry)); err != nil {
			return nil, err
		}
		for ; len(some) > 0; some = some[entry:] {
			next := at + pageMask + 1
			if exists(binary.NativeEndian.Uint64(some)) {
				if n := len(found); n > 0 && found[n-1].end == at {
					found[n-1].end = next
				} else {
					found = append(found, r.part(at, next))
				}
			}
			at = next
		}
	}
	return found, nil
}
