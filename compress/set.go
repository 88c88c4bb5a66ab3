package compress

import (
	"bytes"
	"fmt"
	"sync"
	"sync/atomic"
)

// A Set is the Params of one device and the streams that apply them. It only
// grows: an index that Add gave means the same for as long as the Set lives.
type Set struct {
	streams []*Stream // immutable
	spare   *Stream   // immutable; compresses what AddSpare gave

	mu     sync.Mutex        // held by Add
	params [MaxParams]Params // below n immutable, above it guarded by mu
	spared [MaxParams]bool   // likewise; AddSpare gave them
	n      atomic.Uint32     // stored after params and all streams' codecs are in place
}

// NewSet makes a Set with that many streams, at least one, and no Params yet.
func NewSet(streams int) *Set {
	if streams < 1 {
		panic("compress: a set without streams")
	}
	s := &Set{streams: make([]*Stream, streams)}
	s.spare = &Stream{set: s}
	for i := range s.streams {
		s.streams[i] = &Stream{set: s}
	}
	return s
}

// Add makes room for p in every stream and gives its index. Params that the Set
// has already keep theirs. It allocates, so it is never called from the I/O
// path; streams may run meanwhile. The error wraps ErrUnknown, ErrTooLong,
// ErrInvalid or ErrFull, and then nothing has changed.
func (s *Set) Add(p Params) (uint8, error) { return s.add(p, false) }

// AddSpare is Add for what the streams only decompress: what compresses it is in
// the spare stream alone, since with some codecs that takes megabytes. It does not
// share an index with Add.
func (s *Set) AddSpare(p Params) (uint8, error) { return s.add(p, true) }

func (s *Set) add(p Params, spare bool) (uint8, error) {
	p, err := p.normal()
	if err != nil {
		return 0, fmt.Errorf("add codec: %w", err)
	}
	p.Dict = bytes.Clone(p.Dict)
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.n.Load()
	for id := range n {
		if s.spared[id] == spare && s.params[id].equal(p) {
			return uint8(id), nil
		}
	}
	if n == MaxParams {
		return 0, fmt.Errorf("add codec %s: %w: %d already", p, ErrFull, MaxParams)
	}
	f, err := find(p.Codec)
	if err != nil {
		return 0, fmt.Errorf("add codec: %w", err)
	}
	build := f.make
	var writer codec
	if spare {
		if writer, err = f.make(p); err != nil {
			return 0, fmt.Errorf("add codec %s: %w", p, err)
		}
		warm(writer)
		s.spare.codecs[n] = writer
		if f.read != nil {
			build = f.read
		}
	}
	for _, st := range s.streams {
		// Nobody reads this element before n says that it is there.
		c, err := build(p)
		if err != nil {
			return 0, fmt.Errorf("add codec %s: %w", p, err)
		}
		st.codecs[n] = c
		if spare {
			warmBoth(writer, c)
		} else {
			warm(c)
		}
	}
	s.params[n], s.spared[n] = p, spare
	s.n.Store(n + 1)
	return uint8(n), nil
}

// Len gives the number of Params: their indexes are 0 to Len-1.
func (s *Set) Len() int { return int(s.n.Load()) }

// Params gives the settings of that index, and whether there are any. The
// caller does not change Dict.
func (s *Set) Params(id uint8) (Params, bool) {
	if uint32(id) >= s.n.Load() {
		return Params{}, false
	}
	return s.params[id], true
}

// Spare gives the stream that compresses with what AddSpare gave, and does nothing
// else: work beside the streams' own does not delay them.
func (s *Set) Spare() *Stream { return s.spare }

// Streams gives the number of streams.
func (s *Set) Streams() int { return len(s.streams) }

// Stream gives stream i, counted from 0 and round again: any i >= 0 has one.
func (s *Set) Stream(i int) *Stream { return s.streams[i%len(s.streams)] }
