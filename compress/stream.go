package compress

import (
	"sync"
	"sync/atomic"

	"github.com/zramfs/zramfs/internal/invariants"
	"github.com/zramfs/zramfs/stable"
)

// A Stream compresses and decompresses one page at a time. Whoever uses it holds
// its lock, from Compress until the bytes that Compress gave are copied.
type Stream struct {
	mu     sync.Mutex
	set    *Set             // immutable
	codecs [MaxParams]codec // below set.n: slice immutable, state guarded by mu
	out    [outSize]byte    // mu

	// Written under mu, read at any time.
	compressed, bytesOut, incompressible, decompressed, corrupt atomic.Uint64
}

// StreamStats counts what a stream did since it was made.
type StreamStats struct {
	Compressed     uint64 // pages that became shorter
	BytesOut       uint64 // what these became, in bytes
	Incompressible uint64 // pages that did not
	Decompressed   uint64 // pages given back
	Corrupt        uint64 // attempts at it that failed
}

// Lock takes the stream for the caller.
func (st *Stream) Lock() {
	invariants.Acquire(invariants.RankStream)
	st.mu.Lock()
}

// TryLock takes the stream if nobody has it.
func (st *Stream) TryLock() bool {
	if !st.mu.TryLock() {
		return false
	}
	invariants.Acquired(invariants.RankStream)
	return true
}

// Unlock gives the stream back.
func (st *Stream) Unlock() {
	invariants.Release(invariants.RankStream)
	st.mu.Unlock()
}

// Compress gives the page, compressed with the Params of that index, in a buffer
// of the stream that the next Compress overwrites: 1 to PageSize-1 bytes, or
// ErrIncompressible. It does not release the view. An index that Add did not
// give is the caller's mistake and panics.
func (st *Stream) Compress(id uint8, v stable.View) ([]byte, error) {
	return st.compress(id, (*[PageSize]byte)(v.Bytes()))
}

func (st *Stream) compress(id uint8, page *[PageSize]byte) ([]byte, error) {
	st.check()
	if uint32(id) >= st.set.n.Load() {
		panic("compress: params index out of range")
	}
	n := st.codecs[id].compress(st.out[:], page)
	if n <= 0 || n >= PageSize {
		st.incompressible.Add(1)
		return nil, ErrIncompressible
	}
	st.compressed.Add(1)
	st.bytesOut.Add(uint64(n))
	return st.out[:n:n], nil
}

// Decompress fills dst, which has PageSize bytes, from what Compress gave for
// the Params of that index, on whatever stream. Anything else that src may hold
// gives ErrCorrupt or, where a change to src cannot be seen, some page: after
// ErrCorrupt dst holds anything. Nothing outside dst is written. The index comes
// from a slot word, so one that Add did not give is ErrCorrupt as well.
func (st *Stream) Decompress(id uint8, dst, src []byte) error {
	st.check()
	if len(dst) != PageSize {
		panic("compress: decompress into something that is not a page")
	}
	if uint32(id) >= st.set.n.Load() || !st.codecs[id].decompress((*[PageSize]byte)(dst), src) {
		st.corrupt.Add(1)
		return ErrCorrupt
	}
	st.decompressed.Add(1)
	return nil
}

// Stats gives the counters. Each is exact; together they are of one moment only
// if the stream is quiet.
func (st *Stream) Stats() StreamStats {
	return StreamStats{
		Compressed:     st.compressed.Load(),
		BytesOut:       st.bytesOut.Load(),
		Incompressible: st.incompressible.Load(),
		Decompressed:   st.decompressed.Load(),
		Corrupt:        st.corrupt.Load(),
	}
}

// check panics when the caller does not hold the lock; only invariants builds look.
func (st *Stream) check() {
	if invariants.Enabled && st.mu.TryLock() {
		st.mu.Unlock()
		panic("compress: stream used without its lock")
	}
}
