package keeper

import (
	"slices"
	"strings"
)

// Names of guards. Users give them to --without and read them in doctor's
// output: they are never changed, only added to.
const (
	guardLocked      = "locked"
	guardFlusher     = "io-flusher"
	guardOOM         = "oom-score"
	guardCgroup      = "cgroup"
	guardNoSwap      = "noswap"
	guardReserve     = "reserve"
	guardTables      = "tables"
	guardHeap        = "heap"
	guardSteady      = "steady"
	guardReaders     = "readers"
	guardResend      = "resend"
	guardStandby     = "standby"
	guardTimeouts    = "fuse-timeouts"
	guardBoost       = "watermark-boost"
	guardMinFree     = "min-free"
	guardPageCluster = "page-cluster"
	guardKworkers    = "kworkers"
	guardWarm        = "warm"
	guardDirect      = "direct-io"
	guardStable      = "stable-writes"
	guardThrottle    = "wbt"
	guardDiscard     = "discard"
)

// optionalGuards are those that --without may leave out.
func optionalGuards() []string {
	return []string{
		guardLocked, guardFlusher, guardOOM, guardCgroup, guardReserve, guardTables, guardHeap, guardStandby,
		guardBoost, guardMinFree, guardKworkers, guardWarm, guardStable, guardThrottle, guardDiscard,
	}
}

// checkWithout looks for names that are no guard, or none that can be left out.
func checkWithout(names []string) error {
	for _, name := range names {
		if !slices.Contains(optionalGuards(), name) {
			return Errorf(CodeUsage, "guard %q cannot be left out: expected some of %s", name,
				strings.Join(optionalGuards(), ", "))
		}
	}
	return nil
}

// leavesOut says whether a guard is left out on purpose, to see what it is worth.
func (c *Config) leavesOut(guard string) bool { return slices.Contains(c.Without, guard) }
