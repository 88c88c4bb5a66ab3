package policy

// How the engine backs off, in seconds unless said otherwise.
const (
	mostLevel  = 6    // ages are doubled so often at most
	pause      = 60   // after pages came back; doubled with each level
	window     = 300  // in which half of what was counted is forgotten
	calm       = 1800 // without much coming back, until a level is taken back; doubled with each time it was wrong
	mostCalm   = 43200
	leastBack  = 64 // pages that mean anything
	tierEighth = 8  // one part of a tier may be compared with, though nothing was put there lately
)

// tier says whether what was put somewhere stays there. A page comes back when
// it is read there, or leaves by being written; one that is discarded does not
// count, since a program that ends tells nothing about those that run.
type tier struct {
	known    bool  // there was a look at the table
	pages    int64 // at the last look
	discards int64 // ever, then
	fresh    int64 // pages put there since the last look ended
	early    int64 // of them, before the next one began
	moved    int64 // pages that a decision took from there since

	put, back int64 // pages, lately
	halved    int64 // when the two were halved
	changed   int64 // when the level was
	calm      int64 // how long it waits before it takes a level back
	until     int64 // nothing is done before
}

// begin says that a look begins: what is put there from now on may or may not
// be in it.
func (t *tier) begin() { t.early = t.fresh }

// treat says that pages were put there.
func (t *tier) treat(n int64) {
	t.fresh += n
	t.put += n
}

// learn takes in a look: back is how many pages came back since the last one,
// off says that it backs off from now on.
func (t *tier) learn(now int64, seen Tier, discards int64, percent int, s *State, i int) (back int64, off bool) {
	if t.known {
		left := t.pages + t.early - seen.Pages - t.moved - (discards - t.discards)
		back = seen.Read + max(left, 0)
	}
	t.known, t.pages, t.discards, t.fresh, t.early = true, seen.Pages, discards, t.fresh-t.early, 0
	t.moved = 0
	t.back += back
	level := s.level(i)
	many := t.back*100 > int64(percent)*max(t.put, t.pages/tierEighth)
	switch {
	case many && t.back >= leastBack:
		level = min(level+1, mostLevel)
		s.setLevel(i, level)
		t.until = now + pause<<level
		t.put, t.back = 0, 0
		t.changed, t.calm = now, min(2*max(t.calm, calm), mostCalm)
		return back, true
	case level > 0 && !many && now-t.changed >= max(t.calm, calm):
		s.setLevel(i, level-1)
		t.changed = now
	case level == 0 && now-t.changed >= 2*t.calm:
		t.calm = 0
	}
	if now-t.halved >= window {
		t.put, t.back, t.halved = t.put/2, t.back/2, now
	}
	return back, false
}
