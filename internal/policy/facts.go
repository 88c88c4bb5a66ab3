package policy

// PageSize is what pages are counted in.
const PageSize = 4096

// Bounds of what a policy can say.
const (
	leastAge  = 10        // seconds
	mostAge   = 365 * day // seconds
	mostBytes = 1 << 44   // of a budget or a rate: 16 TiB
)

// Action is a thing to do, and one family of counters.
type Action uint8

// The actions, in the order in which a step decides them.
const (
	Mark           Action = iota // mark pages idle
	Recompress                   // give cold pages the stronger codec
	Incompressible               // write back what no codec helps
	Writeback                    // write back what is colder still
	Compact                      // move objects together
	actions
)

func (a Action) String() string {
	return [...]string{"mark", "recompress", "incompressible", "writeback", "compact"}[a]
}

// writes says whether an action writes to the backing device.
func (a Action) writes() bool { return a == Incompressible || a == Writeback }

// Why says why something is done, or is not.
type Why uint8

// Reasons to do something.
const (
	Cold  Why = iota // pages are old enough, and the CPU has time
	Short            // memory is short
	Loose            // objects lie loosely
	// Reasons not to, although there are pages for it.
	Busy    // the CPU has something else to do
	Spent   // the daily budget is used up
	Backoff // what was worked on came back
	Failed  // it failed a moment ago
	whys
)

func (w Why) String() string {
	return [...]string{"cold", "short", "loose", "busy", "budget", "backoff", "failed"}[w]
}

// held says that w is a reason not to.
func (w Why) held() bool { return w >= Busy }

// Machine is how the machine is. Shares are per mille of the time.
type Machine struct {
	Busy     int // the CPUs were busy, or programs waited for one
	Pressure int // some program waited for memory; -1: the kernel does not tell
	Free     int // of its memory that could be had; -1: unknown
}

// Facts is what a step is told about a disk.
type Facts struct {
	Machine Machine

	Pages    int64 // slots that hold something
	Bytes    int64 // what they became
	Used     int64 // pages of memory
	Limit    int64 // pages; 0: none
	Discards int64 // pages discarded, ever

	Stronger bool // there is a codec to recompress with
	Backing  bool // there is a backing device

	Scan *Scan // a look at the whole slot table that ended since the last step; nil: none
}

// Scan counts pages in the slot table, by the ages that Begin gave.
type Scan struct {
	Todo  [actions]int64 // pages for each action
	Tiers [tiers]Tier
}

// Tier is what lies where this package had it put.
type Tier struct {
	Pages int64
	Read  int64 // of them, read since the look before this one began
}

// The tiers.
const (
	Recompressed = iota
	Backed
	tiers
)

// tierOf says whose pages come back if an action was rash.
func tierOf(a Action) (tier int, ok bool) {
	return [actions]int{Recompress: Recompressed, Incompressible: Backed, Writeback: Backed}[a], a == Recompress || a.writes()
}

// Ages are from how many seconds without an access a page is for an action; 0:
// it is for no action now.
type Ages [actions]uint32

// Decision is a thing to do now.
type Decision struct {
	Action Action
	Why    Why
	Age    uint32 // seconds; of pages at least as old
	Max    int64  // pages to try at most
}

// Outcome is what became of a decision.
type Outcome struct {
	Tried  int64 // pages
	Done   int64 // pages that were marked, got smaller, were written, or returned
	Bytes  int64 // of memory that this freed
	Blocks int64 // pages written to the backing device
	Again  bool  // somebody else was at it; nothing was tried
	Failed error // nil: all went well
}
