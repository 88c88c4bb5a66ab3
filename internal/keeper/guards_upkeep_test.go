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
		{ID: 7, Nice: -1},
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
		{7, GuardPass, "nice -1"},
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

// A device that was reset has no reserve, and misses none.
func TestReserveCheck(t *testing.T) {
	floor, _ := reserve()
	for _, c := range []struct {
		memory map[string]int64
		state  GuardState
		seen   string
	}{
		{map[string]int64{"worker_threads": 9}, GuardPass, "zram3 has no size"},
		{map[string]int64{"reserve": floor}, GuardPass, "populated"},
		{map[string]int64{"reserve": 0}, GuardFail, "0B populated"},
		{map[string]int64{"reserve": floor / 8, blockdev.KeyReserveTarget: 2 * floor}, GuardFail, "expected"},
		{map[string]int64{"reserve": floor / 8, blockdev.KeyReserveTarget: floor / 8}, GuardPass, "populated"},
		{map[string]int64{"reserve": 0, blockdev.KeyReserveTarget: floor / 8}, GuardFail, "0B populated"},
	} {
		in := &inspection{device: 3, before: sample{memory: c.memory}, after: sample{memory: c.memory}}
		if f := checkReserve(in); f.state != c.state || !strings.Contains(f.seen, c.seen) {
			t.Errorf("%v: %+v", c.memory, f)
		}
	}
}

// What a worker's death loses depends on the transport, and not on Linux alone.
func TestResendCheck(t *testing.T) {
	for _, c := range []struct {
		transport, resend string
		state             GuardState
		seen, not         string
	}{
		{TransportPercpu, "yes", GuardPass, "kernel sends again", ""},
		{TransportPercpu, "no", GuardWarn, "FUSE_NOTIFY_RESEND", ""},
		{TransportGofuse, "no", GuardWarn, "transport gofuse", "Linux"},
		{TransportRing, "yes", GuardPass, "keeper's own death ends the mount", "kernel sends again"},
		{TransportRing, "no", GuardWarn, "FUSE_NOTIFY_RESEND", ""},
	} {
		in := &inspection{facts: map[string]string{keyTransport: c.transport, "resend": c.resend}}
		if f := checkResend(in); f.state != c.state || !strings.Contains(f.seen, c.seen) || c.not != "" && strings.Contains(f.seen, c.not) {
			t.Errorf("%s, resend %s: %+v", c.transport, c.resend, f)
		}
	}
}
