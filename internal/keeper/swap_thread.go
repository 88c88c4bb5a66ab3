package keeper

import (
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zramfs/zramfs/internal/host"
	"github.com/zramfs/zramfs/internal/invariants"
)

// swapThreads are the keeper's two threads for swap: one enables segments, the
// other is the watchdog, since the first may have to wait in swapon(2). They
// do nothing else, and once they run they allocate nothing: they are needed
// when the machine has no memory.
//
// All their state that matters lies in the room page, so that those of a new
// keeper go on with it.
type swapThreads struct {
	page    *roomPage
	stop    atomic.Bool    // both end, once a swapon(2) that is under way has
	ended   sync.WaitGroup // never waited for on the keeper's goroutine, which may have to replace a worker for it
	enabler enabler
	guard   guardian
}

// lookTime is how often each of them looks; the enabler does at the quick beat
// while slots are taken.
const lookTime = roomBeat

// sysrqTrigger takes the letter of what the kernel is asked for: sysrqKill, to
// call the OOM killer.
const (
	sysrqTrigger = "/proc/sysrq-trigger"
	sysrqKill    = 'f'
)

// startSwapThreads starts them for the plan that lies in the page. trigger is
// sysrqTrigger, but for tests; words are what to say to log when the watchdog
// fires, and log may be nil.
func startSwapThreads(page *roomPage, crash *crashRecord, trigger string, log *os.File, words lastWords) (*swapThreads, error) {
	t := &swapThreads{page: page}
	n := int(page.total.Load())
	for i := range n {
		t.enabler.devices = append(t.enabler.devices,
			host.PrepareSwapDevice(int(page.loops[i].Load()), int(page.priority.Load())))
	}
	t.enabler.page, t.guard.page = page, page
	t.enabler.planner = planner{segment: page.segment.Load(), cap: page.cap.Load()}
	t.guard.crash, t.guard.log, t.guard.words, t.guard.scarce = crash, log, words, short
	t.guard.dog.fired = page.last.Load() // by a keeper before: whom it hit has its time to die
	var err error
	if t.enabler.meter, err = host.OpenMeter(); err != nil {
		return nil, fmt.Errorf("watch swap: %w", err)
	}
	if t.guard.meter, err = host.OpenMeter(); err != nil {
		t.close()
		return nil, fmt.Errorf("watch swap: %w", err)
	}
	for _, d := range t.enabler.devices {
		f, err := d.InFlight()
		if err != nil {
			t.close()
			return nil, fmt.Errorf("watch swap: %w", err)
		}
		t.guard.inFlight = append(t.guard.inFlight, f)
	}
	put("room.arm", &page.armed, 0)
	if page.guarded.Load() == 1 {
		// Without it the watchdog sees and does nothing; doctor says so.
		if t.guard.trigger, err = os.OpenFile(trigger, os.O_WRONLY, 0); err == nil {
			put("room.arm", &page.armed, 1)
		}
	}
	t.ended.Go(func() { t.run(t.enabler.look) })
	t.ended.Go(func() { t.run(t.guard.look) })
	return t, nil
}

// run looks again and again on a thread of its own, which never goes back to
// the runtime: it ends. look says when it wants to look again.
func (t *swapThreads) run(look func() time.Duration) {
	runtime.LockOSThread()
	next := monotonic()
	for !t.stop.Load() {
		next = max(next+int64(look()), monotonic())
		at := unix.NsecToTimespec(next)
		// Signals cut it short: the runtime sends itself some all the time.
		for unix.ClockNanosleep(unix.CLOCK_MONOTONIC, unix.TIMER_ABSTIME, &at, nil) == unix.EINTR {
		}
	}
}

// close lets go of what they used; both have ended, or never began.
func (t *swapThreads) close() {
	put("room.disarm", &t.page.armed, 0)
	for _, m := range []*host.Meter{t.enabler.meter, t.guard.meter} {
		if m != nil {
			m.Close()
		}
	}
	for _, f := range append(t.guard.inFlight, t.guard.trigger) {
		if f != nil {
			f.Close()
		}
	}
}

// enabler enables segments. It belongs to its thread.
type enabler struct {
	page    *roomPage
	meter   *host.Meter
	devices []*host.SwapDevice // immutable
	planner planner
	used    int64 // slots that hold something, as last seen
	again   int64 // CLOCK_MONOTONIC, ns: not before, after a swapon(2) that failed
	calm    int64 // CLOCK_MONOTONIC, ns: until then slots are being taken
}

const (
	// failTime is how long a swapon(2) that failed is let be.
	failTime = int64(time.Second)
	// hurryTime is how long after the last slot was taken more are expected.
	hurryTime = int64(time.Second)
)

// look looks once, and enables a segment or several.
func (e *enabler) look() time.Duration {
	for e.step() {
	}
	return min(lookTime, e.page.pulse())
}

// step looks once; true says that it enabled a segment, and looks again.
func (e *enabler) step() bool {
	p := e.page
	if !e.meter.ReadSwaps() {
		return false
	}
	now := monotonic()
	leased := now < p.lease.Load()
	enabled, next, free, taken := 0, -1, int64(0), int64(0)
	for i, d := range e.devices {
		bit := int64(1) << i
		size, used, on := e.meter.Swap(d)
		switch was := p.wasOn.Load(); {
		case on:
			enabled++
			free += (size - used) / pageSize
			taken += used / pageSize
			put("room.on", &p.wasOn, was|bit)
			continue
		case was&bit != 0:
			if !leased {
				put("room.halt", &p.halted, 1) // by hand, or by a shutdown: it should stay off
			}
			put("room.off", &p.wasOn, was&^bit) // last: a keeper after this one sees it, too
		}
		if next < 0 {
			next = i
		}
	}
	f := p.look()
	if f.beat == 0 {
		return false // no worker has told anything yet
	}
	e.planner.see(&f, taken)
	put("room.look", &p.enabled, int64(enabled))
	put("room.look", &p.free, free)
	put("room.look", &p.ratio, int64(e.planner.ratio.seen(&f)*100))
	put("room.look", &p.room, e.planner.room(&f))
	put("room.look", &p.held, e.planner.held(&f))
	if taken > e.used {
		e.calm = now + hurryTime
	}
	e.used = taken
	idle := next < 0 || leased || p.halted.Load() != 0
	put("room.hurry", &p.hurry, flag(!idle && now < e.calm))
	if idle {
		put("room.settle", &p.settled, 1)
		return false
	}
	put("room.want", &p.wanted, max(p.wanted.Load(), int64(next+1))) // ahead of need
	if !e.planner.enable(&f, enabled, free) {
		put("room.settle", &p.settled, 1)
		return false
	}
	if p.populated.Load() <= int64(next) || now < e.again {
		return false
	}
	if errno := e.devices[next].On(); errno != 0 && errno != unix.EBUSY { // EBUSY: it is on just now
		put("room.errno", &p.errno, int64(errno))
		e.again = now + failTime
		return false
	}
	put("room.enabled", &p.errno, 0)
	return true
}

// lastWords are what is said before a process is killed.
type lastWords map[alarm][]byte

// guardian is the watchdog's eyes and hand. It belongs to its thread.
type guardian struct {
	page     *roomPage
	crash    *crashRecord
	meter    *host.Meter
	inFlight []*os.File // immutable
	trigger  *os.File   // immutable; nil: not to be had
	log      *os.File   // immutable; nil: none
	words    lastWords  // immutable
	scarce   func(total, available int64) bool
	dog      watchdog
	text     [64]byte
}

// look looks once, and asks the OOM killer if that is all there is left to do.
func (g *guardian) look() time.Duration {
	g.watch()
	return lookTime
}

func (g *guardian) watch() {
	f := g.page.look()
	f.orphaned = g.crash.orphaned()
	if f.beat == g.dog.beat {
		f.cpu = host.CPUTime(int(g.crash.worker.Load()))
	}
	moving := int64(0)
	if f.requests == g.dog.requests {
		for _, file := range g.inFlight {
			moving += host.CountInFlight(file, g.text[:])
		}
	}
	now := monotonic()
	why := g.dog.see(now, &f, g.page.free.Load(), moving)
	if why == noAlarm || g.trigger == nil {
		return
	}
	total, available, ok := g.meter.Memory()
	if !ok || !g.scarce(total, available) {
		return
	}
	g.dog.done(now)
	g.text[0] = sysrqKill
	if _, err := unix.Pwrite(int(g.trigger.Fd()), g.text[:1], 0); err != nil {
		return
	}
	put("room.fire", &g.page.last, now)
	invariants.CrashPoint("room.fired")
	g.page.fired.Add(1)
	invariants.CrashPoint("room.fired.counted")
	if g.log != nil {
		_, _ = unix.Write(int(g.log.Fd()), g.words[why])
	}
}
