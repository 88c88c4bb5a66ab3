package blockdev

import "errors"

// What a misuse or a failure is. The FUSE edge turns each into one errno; the
// text that wraps it says what was wrong, what was expected and what to do.
var (
	ErrInvalid     = errors.New("invalid argument")        // EINVAL
	ErrBusy        = errors.New("device or resource busy") // EBUSY
	ErrRefused     = errors.New("page under compression")  // EBUSY, stable policy refuse
	ErrNoSpace     = errors.New("no space left")           // ENOSPC
	ErrCorrupt     = errors.New("corrupt page")            // EIO
	ErrNotReady    = errors.New("device not initialised")  // EIO
	ErrTooBig      = errors.New("argument too long")       // E2BIG
	ErrRange       = errors.New("out of range")            // ERANGE
	ErrNoDevice    = errors.New("no such device")          // ENODEV
	ErrNotBlock    = errors.New("not a block device")      // ENOTBLK
	ErrUnsupported = errors.New("not supported")           // EOPNOTSUPP
	ErrAgain       = errors.New("try again")               // EAGAIN
	ErrInterrupted = errors.New("interrupted")             // EINTR
	ErrBacking     = errors.New("backing device failed")   // EIO
	ErrBudget      = errors.New("writeback budget is 0")   // EIO
)

// errPark, errRoom and errLimit steer a request inside Submit and are never
// answered: the slot's page is under compression; the pool has no populated
// room now; the memory limit has none.
var (
	errPark  = errors.New("park: page under compression")
	errRoom  = errors.New("park: no populated room")
	errLimit = errors.New("park: no room under the memory limit")
	// The page is on the backing device, and the disk is gone.
	errAway   = errors.New("park: page on the backing device")
	errClosed = errors.New("the disk is gone")
)
