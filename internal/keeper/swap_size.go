package keeper

import (
	"github.com/zramfs/zramfs/internal/host"
)

const (
	// swapRatio is how many times its store a swap is large unless its size was
	// given: slots cost little while they are not enabled, and more than three
	// pages of real data in one of memory are rare.
	swapRatio = 3
	// leastSegment is the smallest part worth a loop device of its own.
	leastSegment = 4 << 20
	// ownMemory is about what the daemon itself takes beside the store.
	ownMemory = 24 << 20
	// storeBase, leastPrograms: see storeFor.
	storeBase     = 384 << 20
	leastPrograms = 8 << 20
)

// storeFor is how much memory compressed pages may take on a machine, if
// nobody says. What counts is the memory that programs can have: free, or
// full of files, or theirs already. A machine with little of it swaps because
// the rest would not run otherwise, so seven eighths may become store. A large
// one that holds half of its memory compressed does little else than that
// already; so beyond the first GiB it is half of each more. On the smallest a
// working set that is not compressed must be left, and the watermarks: else the
// store never comes to its limit, and whoever runs has no memory at all before
// that; but no more than half.
func storeFor(m host.MachineMemory) int64 {
	usable := max(m.Available+m.Anonymous-ownMemory, 0)
	return max(min(usable/8*7, usable/2+storeBase, usable-leastPrograms), usable/2) &^ (pageSize - 1)
}

// segmentsFor is into how many segments to cut a swap of size bytes.
func segmentsFor(size int64) int {
	return int(max(1, min(maxSegments, size/leastSegment)))
}
