package keeper

import (
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zramfs/zramfs/blockdev"
	"github.com/zramfs/zramfs/internal/host"
)

// The guard is about the thread that commits memory, however urgent others are.
func TestUpkeepCheck(t *testing.T) {
	threads := []host.Thread{
		{ID: 7, Nice: -20},
		{ID: 8, Policy: unix.SCHED_FIFO, Priority: 1},
		{ID: 9},
	}
	ordinary := GuardWarn
	if host.Capable(host.CapSysNice) && host.MayBeUrgent() {
		ordinary = GuardFail
	}
	const silent = -1
	for _, c := range []struct {
		id    int64
		state GuardState
		seen  string
	}{
		{silent, GuardUnknown, "does not tell"},
		{0, GuardWarn, "no thread of its own"},
		{5, GuardUnknown, "thread 5 ended"},
		{7, GuardPass, "nice -20"},
		{8, GuardPass, "SCHED_FIFO 1"},
		{9, ordinary, "thread 9 is of ordinary priority (nice 0)"},
	} {
		in := &inspection{procs: []member{{memberKeeper, os.Getpid()}, {memberWorker, 2}}}
		in.after = sample{threads: map[int][]host.Thread{2: threads}, memory: map[string]int64{blockdev.KeyUpkeep: c.id}}
		if c.id == silent {
			delete(in.after.memory, blockdev.KeyUpkeep)
		}
		if f := checkUpkeep(in); f.state != c.state || !strings.Contains(f.seen, c.seen) {
			t.Errorf("thread %d: %+v, want %s with %q", c.id, f, c.state, c.seen)
		}
	}
}
