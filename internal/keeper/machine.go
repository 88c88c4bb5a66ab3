package keeper

import "github.com/zramfs/zramfs/internal/host"

// What is kept ready grows with the machine, up to where more is no use: on a
// small one each MiB that lies ready is one that programs do not have.
const (
	largestReserve = 16 << 20 // of populated free memory, bytes
	leastReserve   = 2 << 20
	reserveShare   = 64 // of the machine's memory, one part

	largestSlack = 2 << 20 // of garbage on the heap, bytes
	leastSlack   = 256 << 10
	slackShare   = 512
)

// share is one part in n of the machine's memory, within bounds.
func share(n, least, largest int64) int64 {
	total, err := host.TotalMemory()
	if err != nil {
		return largest
	}
	return min(max(total/n, least), largest) &^ (pageSize - 1)
}

// reserve is how much populated free memory upkeep keeps: it acts below low,
// and makes high of it.
func reserve() (low, high int64) {
	high = share(reserveShare, leastReserve, largestReserve)
	return high / 2, high
}

// heapSlack is how much garbage is let lie on the heap, in bytes.
func heapSlack() int64 { return share(slackShare, leastSlack, largestSlack) }
