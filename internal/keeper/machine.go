package keeper

import (
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/zramfs/zramfs/blockdev"
	"github.com/zramfs/zramfs/internal/host"
)

// urgency is for the thread that commits memory for the store. With real-time
// priority the kernel lets it take half of what is below its last watermark,
// where the programs whose pages are being swapped out take nothing any more.
// When that is used up as well the kernel looks for memory on the thread's own
// time, and such a thread kept the readers and the kernel's loop threads, who free
// memory, from the only CPU until the machine was lost (128 MiB, in a guest): then
// it is better one of many. doctor tells where it is not granted.
func urgency() *host.Urgency {
	total, err := host.TotalMemory()
	if err != nil {
		total = 0
	}
	return host.NewUrgency(scarceBelow(total))
}

// scarceBelow is with how many free bytes a step of it would begin to look for
// memory: what real-time threads may take, down to half of the watermark that
// swapon sets and some that lies in zones where they may not, does not last for it.
func scarceBelow(total int64) int64 { return wantMinFree(total)<<10/8*5 + blockdev.CommitStep }

// hurry makes the thread that takes over from a dead worker urgent, for the same
// reason: until it serves, the machine's swap stands still. Not before it is told
// to: a standby that prepares itself takes memory while another worker serves,
// and would keep that one, who frees it, from the only CPU.
func (w *worker) hurry() {
	if w.task.Config.Segments > 0 && !w.task.Config.leavesOut(guardStandby) {
		runtime.LockOSThread()
		w.urgency = urgency()
		w.urgency.Apply(true) // page tables first
	}
}

// mapped is called when it has all page tables: from then on it mostly computes.
func (w *worker) mapped() {
	if w.task.Config.Segments > 0 && !w.task.Config.leavesOut(guardStandby) {
		w.urgency.Apply(false)
	}
}

// calm ends the hurry.
func (w *worker) calm() {
	if w.task.Config.Segments > 0 && !w.task.Config.leavesOut(guardStandby) {
		_ = host.SetPolicy(0, unix.SCHED_NORMAL, 0) // as it was before
		runtime.UnlockOSThread()
	}
}

// What is kept ready grows with the machine, up to where more is no use: on a
// small one each MiB that lies ready is one that programs do not have.
const (
	largestReserve = 16 << 20 // of populated free memory, bytes
	leastReserve   = 4 << 20
	reserveShare   = 64 // of the machine's memory, one part

	largestSlack = 2 << 20 // of garbage on the heap, bytes
	leastSlack   = 512 << 10
	slackShare   = 256
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
	return high / 4 * 3, high
}

// Bounds of what a loop device may have under way.
const (
	flightRequest = 64 << 10 // most bytes of one request
	leastFlight   = 4        // requests; the kernel takes no less
	mostFlight    = 128      // as the kernel has it
)

// inFlight is how many requests each of so many loop devices may have under
// way, so that the reserve has room for what all of them carry, even if none
// of it compresses: storing it then needs no memory from the kernel, which
// may have none until it is stored.
func inFlight(loops int) int64 {
	_, high := reserve()
	return min(max(high/flightRequest/int64(max(loops, 1)), leastFlight), mostFlight)
}

// heapSlack is how much garbage is let lie on the heap, in bytes.
func heapSlack() int64 { return share(slackShare, leastSlack, largestSlack) }
