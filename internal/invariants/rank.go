package invariants

// Rank is a lock's place in the one order that all packages keep: a goroutine
// that holds a lock takes only locks of a higher rank.
type Rank uint8

// The order, from the outside in.
const (
	RankDevice Rank = iota + 1
	RankSlot
	RankHand // a stream's scratch for parts of pages
	RankStream
	RankSlab
	RankArena
)
