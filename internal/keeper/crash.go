package keeper

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/zramfs/zramfs/blockdev"
	"github.com/zramfs/zramfs/internal/fuseconn"
	"github.com/zramfs/zramfs/internal/host"
	"github.com/zramfs/zramfs/internal/invariants"
)

const (
	maxSuspects = 1024 // more requests than a worker can have open
	maxReason   = 512
	// strikes is how many workers a request may have been open in when they
	// died by a fault before it is answered with EIO.
	strikes = 2
)

// crashRecord is what is known of dead workers; it lies in the header.
//
// The keeper writes the first group, the worker that serves the second, so no
// field ever has two writers at a time.
type crashRecord struct {
	generations atomic.Uint64 // workers that were told to go
	deaths      atomic.Uint64 // of workers that had been told to go; upgrades are not among them
	faults      atomic.Uint64 // deaths by a fault
	upgrades    atomic.Uint64
	keepers     atomic.Uint64 // that took over from a dead one
	diedAt      atomic.Int64  // CLOCK_MONOTONIC, ns: end of the last worker; 0: there was none
	caretaker   atomic.Int64  // the keeper; when it is dead, who starts another. Changes hands by compare-and-swap
	keeper      atomic.Int64  // process numbers; 0: none
	worker      atomic.Int64
	standby     atomic.Int64
	reasonLen   atomic.Uint64
	reason      [maxReason]byte // why the last worker ended; no worker serves while it is written
	unjudged    atomic.Uint64   // not 0: it died by a fault, and its requests were not counted; the next worker does, see accuse

	firstAnswer atomic.Int64  // CLOCK_MONOTONIC, ns: of the worker that serves; 0: none yet
	pageFaults  atomic.Int64  // of the worker that serves, from the order to serve until it did
	resent      atomic.Uint64 // requests that came again, as programs before this one have left it
	resentNow   atomic.Uint64 // and those that came since
	poisoned    atomic.Uint64 // requests answered with EIO because workers died of them, as resent
	poisonedNow atomic.Uint64
	reclaimed   atomic.Int64  // objects that no slot named when a worker took over
	suspects    atomic.Uint64 // of those below, how many count
	suspect     [maxSuspects]suspect

	// What came after the first programs of this format: they leave it as it is, or 0.
	verdict  [maxSuspects]uint8 // while unjudged is unjudgedList: how often each request has been suspect now, in the order of InFlight
	deathsTo atomic.Uint64      // what deaths is to be when the worker that was told to go has died; of who told it. 0: not known
}

// Values of unjudged.
const (
	unjudgedAll  = 1 // nothing is done
	unjudgedList = 2 // the verdict is there, the list of suspects may be torn
)

// suspect is a request that was open when a worker died by a fault.
type suspect struct {
	id    uint64
	times uint64
}

// The record fits into its span.
var _ [crashBytes - unsafe.Sizeof(crashRecord{})]byte

func (c *crashRecord) check() error {
	if c.reasonLen.Load() > maxReason || c.suspects.Load() > maxSuspects {
		return errors.New("open header: the crash record is torn")
	}
	return nil
}

// died notes the end of a worker.
func (c *crashRecord) died(at int64, reason string) {
	n := min(len(reason), maxReason)
	invariants.CrashPoint("crash.died")
	c.reasonLen.Store(0) // no reason is better than half of one
	invariants.Copy("crash.died.reason", c.reason[:], []byte(reason[:n]))
	invariants.CrashPoint("crash.died.length")
	c.reasonLen.Store(uint64(n))
	invariants.CrashPoint("crash.died.at")
	c.diedAt.Store(at)
	invariants.CrashPoint("crash.died.noted")
}

// goes notes that a worker is told to go: it is this one whose end counts.
func (c *crashRecord) goes(pid int64) {
	invariants.CrashPoint("crash.goes")
	c.deathsTo.Store(c.deaths.Load() + 1)
	invariants.CrashPoint("crash.goes.deaths")
	c.worker.Store(pid)
	invariants.CrashPoint("crash.goes.worker")
}

// countDeath counts the death of the worker that was told to go. Until worker is
// stored it may be done again: who did it may have died.
func (c *crashRecord) countDeath() {
	n, now := c.deathsTo.Load(), c.deaths.Load()
	if n == 0 || n < now { // a program that knows nothing of it has counted
		n = now + 1
	}
	c.deaths.Store(n)
	invariants.CrashPoint("crash.deaths")
}

// follow makes a process that waited the worker, when keeper and worker are dead.
// serves is what worker was; if it is not 0, nobody has noted the end of that one,
// unless it is this process, whose order was on its way.
func (c *crashRecord) follow(self, serves int64) order {
	if serves != 0 && serves != self {
		c.died(monotonic(), "it died together with its keeper")
		c.countDeath()
	}
	c.worker.Store(0)
	invariants.CrashPoint("crash.follow.noted")
	c.goes(self)
	c.standby.Store(0)
	invariants.CrashPoint("crash.follow")
	return order{Generation: int(c.generations.Add(1)), Resume: true, Fault: c.unjudged.Load() != 0}
}

// takeCare makes this process the one that looks after the mount, if the one
// it takes over from still did: of several, one succeeds.
func (c *crashRecord) takeCare(from int64) bool {
	invariants.CrashPoint("crash.care")
	took := c.caretaker.CompareAndSwap(from, int64(os.Getpid()))
	invariants.CrashPoint("crash.cared")
	return took
}

// inCareOf says whether one of these processes looks after the mount.
func (c *crashRecord) inCareOf(pids ...int64) bool { return slices.Contains(pids, c.caretaker.Load()) }

// orphaned says whether the last worker is dead and the next has answered nothing.
func (c *crashRecord) orphaned() bool { return c.diedAt.Load() > c.firstAnswer.Load() }

func (c *crashRecord) lastReason() string { return string(c.reason[:c.reasonLen.Load()]) }

// accuse counts the requests that were open when a worker died by a fault, and
// forgets those that were not. Each death counts once: who dies here leaves either
// the list of before, or the verdict, from which the next one writes the list. It
// finds the same requests open, since nobody has served meanwhile.
func (c *crashRecord) accuse(open []uint64) {
	open = open[:min(len(open), maxSuspects)]
	if c.unjudged.Load() != unjudgedList {
		before := make(map[uint64]uint64)
		for _, s := range c.suspect[:c.suspects.Load()] {
			before[s.id] = s.times
		}
		for i, id := range open {
			invariants.CrashPoint("crash.verdict")
			c.verdict[i] = uint8(min(before[id]+1, 255))
		}
		invariants.CrashPoint("crash.judge")
		c.unjudged.Store(unjudgedList)
		invariants.CrashPoint("crash.judged")
	}
	for i, id := range open {
		c.suspect[i].id = id
		invariants.CrashPoint("crash.suspect")
		c.suspect[i].times = uint64(c.verdict[i])
		invariants.CrashPoint("crash.suspect.times")
	}
	c.suspects.Store(uint64(len(open)))
	invariants.CrashPoint("crash.suspects")
	c.unjudged.Store(0)
	invariants.CrashPoint("crash.accused")
}

// condemned are the requests that are to be answered with EIO when they come
// again.
func (c *crashRecord) condemned() []uint64 {
	var ids []uint64
	for _, s := range c.suspect[:c.suspects.Load()] {
		if s.times >= strikes {
			ids = append(ids, s.id)
		}
	}
	return ids
}

// monotonic is CLOCK_MONOTONIC in nanoseconds, the same for all processes.
func monotonic() int64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		panic(fmt.Sprintf("keeper: read the clock: %v", err)) // it has no reason to
	}
	return t.Nano()
}

// recovered notes what a worker found when it took over.
func (c *crashRecord) recovered(found blockdev.Recovered) {
	invariants.CrashPoint("crash.recovered")
	c.reclaimed.Add(found.Reclaimed)
	invariants.CrashPoint("crash.reclaimed")
	c.firstAnswer.Store(0)
	invariants.CrashPoint("crash.answer")
}

// again is how many requests came again, and were refused, before this worker.
type again struct{ resent, poisoned uint64 }

func (c *crashRecord) again() again { return again{c.resentNow.Load(), c.poisonedNow.Load()} }

// came tells how many have come now: each count is one word, so that no death
// between two of them loses what workers before had counted.
func (c *crashRecord) came(before again, s fuseconn.Stats) {
	invariants.CrashPoint("crash.came")
	c.resentNow.Store(before.resent + s.Resent)
	invariants.CrashPoint("crash.came.resent")
	c.poisonedNow.Store(before.poisoned + s.Poisoned)
	invariants.CrashPoint("crash.came.poisoned")
}

// judge looks at what the worker before was doing when it died, if it died by
// a fault, and gives the requests that have done so too often.
func (w *worker) judge() []uint64 {
	c := w.header.crash()
	if w.order.Fault {
		c.accuse(fuseconn.InFlight(w.buffers, len(w.task.CPUs), w.task.Layout))
	}
	ids := c.condemned()
	if len(ids) > 0 && w.order.Fault {
		_ = w.tell(message{Kind: msgSay, Notes: []string{fmt.Sprintf("requests %d were open in %d workers "+
			"that died by a fault: they are answered with an I/O error", ids, strikes)}})
	}
	return ids
}

// publish puts into the record what only this process knows, until it will not
// change any more: when it first answered, and what was sent again.
func (w *worker) publish(conn fuseconn.Conn) {
	if w.header.region == nil {
		return
	}
	c := w.header.crash()
	before := c.again()
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		s := conn.Stats()
		if s.FirstAnswer != 0 {
			c.firstAnswer.Store(s.FirstAnswer)
			invariants.CrashPoint("crash.answered")
			break
		}
		time.Sleep(pause)
	}
	for range 20 { // what is sent again comes first
		c.came(before, conn.Stats())
		time.Sleep(50 * time.Millisecond)
	}
	if w.order.Resume {
		if m, err := host.OpenMeter(); err == nil {
			if !scarce(m) { // the collector stops every thread, and one of them may wait for a page
				_ = settleHeap() // as before the first generation serves
			}
			m.Close()
		}
	}
}

// appendCrash is the text of crash_stat.
func (w *worker) appendCrash(b []byte) []byte {
	line := func(key string, value any) { b = fmt.Appendf(b, "%s %v\n", key, value) }
	line(keyGenerations, w.order.Generation)
	if w.header.region == nil {
		return b
	}
	c := w.header.crash()
	line("deaths", c.deaths.Load())
	line("faults", c.faults.Load())
	line("upgrades", c.upgrades.Load())
	line("keepers", c.keepers.Load())
	line("last_reason", c.lastReason())
	line(keyRecovery, c.recovery().Microseconds())
	line("last_recovery_faults", c.pageFaults.Load())
	line("requests_resent", c.resent.Load()+c.resentNow.Load())
	line("objects_reclaimed", c.reclaimed.Load())
	line("suspects", c.suspects.Load())
	line("poisoned", c.poisoned.Load()+c.poisonedNow.Load())
	line("standby", yesNo(c.standby.Load() != 0))
	return b
}

// appendVerified tells how far the verification of a disk's pages is that
// follows a recovery.
func appendVerified(b []byte, d *blockdev.Device) []byte {
	done, total, corrupt := d.Verified()
	return fmt.Appendf(b, "pages_verified %d\npages_to_verify %d\npages_corrupt %d\n", done, total, corrupt)
}

// recovery is the time from the last worker's end to this one's first answer, 0
// if there was no death, or no answer yet.
func (c *crashRecord) recovery() time.Duration {
	died, answered := c.diedAt.Load(), c.firstAnswer.Load()
	if died == 0 || answered < died {
		return 0
	}
	return time.Duration(answered - died)
}

// attrCrash is the attribute that tells about deaths, and keys in it that
// commands read back.
const (
	attrCrash      = "crash_stat"
	keyGenerations = "generations"
	keyRecovery    = "last_recovery_us"
)
