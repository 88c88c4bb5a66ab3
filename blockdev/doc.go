// Package blockdev is the disk: its slots, the staging of writes, what a page
// becomes, limits, and the attribute table.
//
// The slot table is the truth. A slot's word alone says how to read its page;
// everything else (pool descriptors, gauges, queues) can be made anew from the
// words. Every change builds the new content first, publishes it with one
// atomic store of the word, and frees the old content last, so that a death
// between any two instructions leaves the old page readable.
//
// A reader of requests never waits: Submit answers at once or parks the
// request, and whichever goroutine finishes the work answers it.
//
// Lock order, upward only:
//
//	Device.mu → gate → slot stripe → hand → compress.Stream → pool's slab → pool's arena
//
// The frame queues of package stable, the lists of parked requests and the
// account are leaves. Compaction holds a slab and only tries slots.
//
// The package never sees FUSE, a process or a path on the host.
package blockdev
