// Package compress turns a page that is promised not to change into bytes that
// are hoped to be fewer, and back.
//
// A device has one [Set]: at most [MaxParams] frozen [Params], each a codec with
// its level and dictionary, known by an index that a slot word can hold. The set
// has a fixed number of [Stream]s, usually one for each CPU. A stream owns the
// private state of every codec and one output buffer, so that two streams share
// nothing that is written. As in the kernel's zcomp, params are what all streams
// share and read, and the codec state is what each has for itself.
//
// Lock order: slot, then stream, then slab. Set.Add takes a lock of its own and
// no stream's. After Add, Compress and Decompress allocate nothing; what the
// libraries below need for that is said with each codec.
//
// It never knows slots or the pool, never logs, never starts a goroutine, and
// compresses nothing but a [stable.View].
package compress

import (
	"errors"

	"github.com/zramfs/zramfs/stable"
)

// PageSize is the length in bytes of what Compress takes and Decompress gives.
const PageSize = stable.PageSize

// MaxParams is how many Params a Set can hold: a slot word has four bits for them.
const MaxParams = 16

var (
	// ErrIncompressible says that the result would not be shorter than the page.
	// The caller stores the page as it is.
	ErrIncompressible = errors.New("compress: page does not compress")
	// ErrCorrupt says that bytes do not decompress to exactly one page.
	ErrCorrupt = errors.New("compress: corrupt data")
	// ErrUnknown says that no codec has this name (EINVAL).
	ErrUnknown = errors.New("compress: unknown algorithm")
	// ErrInvalid says that a level, a dictionary or the syntax is wrong (EINVAL).
	ErrInvalid = errors.New("compress: invalid parameter")
	// ErrTooLong says that a name has 128 characters or more (E2BIG).
	ErrTooLong = errors.New("compress: algorithm name too long")
	// ErrFull says that a Set has no index left for other Params (ENOSPC).
	ErrFull = errors.New("compress: too many parameter sets")
)
