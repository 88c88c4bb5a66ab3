package blockdev

import "time"

// Op is what a request asks of the disk.
type Op uint8

const (
	// OpRead fills Data from Off.
	OpRead Op = iota
	// OpWrite stores Data at Off.
	OpWrite
	// OpDiscard empties Len bytes from Off: they read as zeroes afterwards.
	OpDiscard
	// OpZero does the same; it is counted apart.
	OpZero
	// OpFlush orders nothing, since nothing acknowledged is ever volatile.
	OpFlush
)

// Request is one operation on the disk. Its memory belongs to the caller and
// is used again for the next request; the Device allocates nothing for it.
type Request struct {
	Op     Op
	Stream int    // whose scratch and slab to use: the caller's CPU
	Off    int64  // byte offset on the disk
	Len    int64  // bytes to discard or zero; else len(Data) counts
	Data   []byte // payload of a write, or where a read goes
	// Last says that whoever submits could take no other request while this one
	// waits: it is not parked where the wait may be long, but gets ErrNoSpace. A read
	// is, since there is no other way to its page.
	Last bool

	// Done answers a request that Submit parked: called once, from another
	// thread. Set when the Request is made, then immutable.
	Done func(r *Request, n int, err error)
	// Tag is the caller's own; the Device never looks at it.
	Tag any

	next   *Request  // guarded by the queue the request is parked on
	done   int64     // bytes finished before it was parked
	until  time.Time // it waits for room until then; zero: it has not, since done moved on
	parked bool      // counted as parked

	// Of a read that waits for the backing device, a bit per page from its first:
	// those that have come already, and those that were asked for. Guarded by the
	// queue it is parked on.
	ahead, asked uint64

	since   time.Time // when it began to wait for room under the limit
	limited bool      // it waits for that
}
