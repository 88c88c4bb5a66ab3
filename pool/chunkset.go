package pool

import "math/bits"

// chunkSet is a set of chunk numbers. Finding its first or last member takes a
// step per factor of 64 in the number of chunks.
type chunkSet struct {
	// levels[0] has a bit per chunk, levels[i+1] one per word of levels[i] that
	// is not zero. The last level is one word.
	levels [][]uint64
}

// newChunkSet makes a set over n chunks, with none or all in it.
func newChunkSet(n int, all bool) chunkSet {
	var s chunkSet
	for {
		words := make([]uint64, (n+63)/64)
		if all {
			for i := range n {
				words[i/64] |= 1 << (i % 64)
			}
		}
		s.levels = append(s.levels, words)
		if len(words) == 1 {
			return s
		}
		n = len(words)
	}
}

// set puts chunk i in or takes it out.
func (s *chunkSet) set(i int, in bool) {
	for _, words := range s.levels {
		w := &words[i/64]
		was := *w
		if in {
			*w |= 1 << (i % 64)
		} else {
			*w &^= 1 << (i % 64)
		}
		if (was == 0) == (*w == 0) {
			return // the level above knows already
		}
		i /= 64
	}
}

func (s *chunkSet) has(i int) bool { return s.levels[0][i/64]>>(i%64)&1 != 0 }

func (s *chunkSet) empty() bool { return s.levels[len(s.levels)-1][0] == 0 }

// first is the lowest member, -1 if there is none.
func (s *chunkSet) first() int {
	if s.empty() {
		return -1
	}
	i := 0
	for l := len(s.levels) - 1; l >= 0; l-- {
		i = i*64 + bits.TrailingZeros64(s.levels[l][i])
	}
	return i
}

// last is the highest member, -1 if there is none.
func (s *chunkSet) last() int {
	if s.empty() {
		return -1
	}
	i := 0
	for l := len(s.levels) - 1; l >= 0; l-- {
		i = i*64 + 63 - bits.LeadingZeros64(s.levels[l][i])
	}
	return i
}
