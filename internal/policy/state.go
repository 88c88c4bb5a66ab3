package policy

// State is what a policy remembers across the death of a worker: counters, how
// much was written back when, and how far it backed off. Each word means
// something by itself, so it may be stored word by word in shared memory.
type State [StateWords]uint64

const (
	day  = 24 * hour
	hour = 3600

	historyHours = 25 // the hour that runs, and 24 before it
	historyDays  = 15 // the day that runs, and two weeks before it
)

// Where what lies.
const (
	countsAt = 0
	hoursAt  = countsAt + int(counters)
	daysAt   = hoursAt + historyHours
	levelsAt = daysAt + historyDays

	// StateWords is the number of words.
	StateWords = levelsAt + tiers
)

// counter is what is counted. Figures of an action lie together.
type counter int

const (
	steps counter = iota
	scans
	perAction                                  // runs, tried, done, bytes of each action
	perHeld   = perAction + 4*counter(actions) // steps in which an action was held, for each reason
	returned  = perHeld + counter(whys-Busy)   // pages that came back, for each tier
	backoffs  = returned + tiers               // for each tier
	counters  = backoffs + tiers
)

// of finds a figure of an action: 0 runs, 1 pages tried, 2 pages done, 3 bytes.
func of(a Action, figure int) counter { return perAction + 4*counter(a) + counter(figure) }

func (s *State) add(c counter, n int64)    { s[countsAt+int(c)] += uint64(n) }
func (s *State) count(c counter) (n int64) { return int64(s[countsAt+int(c)]) }

// The history is two rings of words, an hour or a day each: its number in the
// upper half, pages written in the lower. A word of another round is old.

// charge counts pages that are about to be written; n < 0: they were not.
func (s *State) charge(now, n int64) {
	charge(s[hoursAt:][:historyHours], now/hour, n)
	charge(s[daysAt:][:historyDays], now/day, n)
}

func charge(ring []uint64, at, n int64) {
	w := &ring[at%int64(len(ring))]
	have := int64(0)
	if int64(*w>>32) == at {
		have = int64(uint32(*w))
	}
	*w = uint64(at)<<32 | uint64(min(max(have+n, 0), 1<<32-1))
}

// spent is how many pages were written in the last 24 hours, and the hour that
// was then running.
func (s *State) spent(now int64) (n int64) {
	for _, w := range s[hoursAt:][:historyHours] {
		if at := int64(w >> 32); at <= now/hour && at > now/hour-historyHours {
			n += int64(uint32(w))
		}
	}
	return n
}

// days gives what was written on the days until now, the one that runs first.
func (s *State) days(now int64) (pages [historyDays]int64) {
	for _, w := range s[daysAt:][:historyDays] {
		if ago := now/day - int64(w>>32); ago >= 0 && ago < historyDays {
			pages[ago] += int64(uint32(w))
		}
	}
	return pages
}

// level is how often the ages of a tier are doubled.
func (s *State) level(tier int) int { return int(min(s[levelsAt+tier], mostLevel)) }

func (s *State) setLevel(tier, n int) { s[levelsAt+tier] = uint64(n) }

// each tells every counter.
func (s *State) each(tell func(name string, n int64)) {
	tell("steps", s.count(steps))
	tell("scans", s.count(scans))
	for a := range actions {
		tell(a.String()+"_runs", s.count(of(a, 0)))
		tell(a.String()+"_tried", s.count(of(a, 1)))
		tell(a.String()+"_pages", s.count(of(a, 2)))
		tell(a.String()+"_bytes", s.count(of(a, 3)))
	}
	for w := Busy; w < whys; w++ {
		tell("held_"+w.String(), s.count(perHeld+counter(w-Busy)))
	}
	for i, name := range [tiers]string{"recompressed", "backed"} {
		tell(name+"_returned", s.count(returned+counter(i)))
		tell(name+"_backoffs", s.count(backoffs+counter(i)))
		tell(name+"_level", int64(s.level(i)))
	}
}
