package blockdev

import "context"

// recompressOptions say what a pass of recompression is to do.
type recompressOptions struct {
	selector
	priority  uint8 // of the algorithm to use, 1 to 3; 0: the first that there is
	threshold int   // bytes: smaller objects stay, and what becomes no smaller does; 0: none
	maxPages  int64 // attempts; 0: no bound
}

// recompressResult is what a pass did.
type recompressResult struct {
	attempts     int64 // pages that were compressed again
	recompressed int64 // of these, pages that are stored as the result
	saved        int64 // bytes that the stored pages became shorter
}

// recompressPass compresses candidates with a secondary algorithm and keeps what
// saves memory. ErrAgain while another pass runs, ErrInvalid without the
// algorithm.
func (d *disk) recompressPass(ctx context.Context, o recompressOptions) (r recompressResult, err error) {
	return r, ErrUnsupported
}
