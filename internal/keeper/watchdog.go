package keeper

// watchdog decides when the kernel's OOM killer is asked to end a process:
// when nothing else can make room any more. It is arithmetic: no clock, no
// files, no allocation.
//
// It takes notice of a worker that is alive, of one that is dead and whose
// successor is long in coming, and of one that runs and is silent, but only while swap has free slots: when there
// are none the kernel comes to the OOM killer by itself. It cannot fire on an
// idle machine, where nothing waits and nothing fails.
type watchdog struct {
	beat, failed, requests int64 // as last seen

	heard int64 // ns: when the worker last told anything; 0: never
	alone int64 // ns: since when no worker has told anything, which began with the first look; 0: one has
	mute  int64 // ns: since when one that runs has told nothing; 0: it has
	cpu   int64 // ns of CPU time that it had taken, as last seen
	ran   int64 // ns: when it was last seen to take some
	full  int64 // ns: since when writes wait for room, or fail, and no memory comes; 0: not so
	used  int64 // pages of memory that the store took when that began
	quiet int64 // ns: when that was last so
	stuck int64 // ns: since when requests are under way, none is served and none waits for the backing device; 0: not so
	fired int64 // ns: 0: never
}

const (
	// fullTime is how long writes wait or fail before the watchdog fires.
	fullTime = 1e9
	// gain is how many pages of memory the store must get in that time for the
	// machine to be slow, and not at its end.
	gain = 64
	// stuckTime is how long the kernel may have requests for the disk under way
	// that do not come to the worker. One that came and waits for the backing
	// device is under way as well, and no death of a process would help it.
	stuckTime = 2e9
	// calmTime without waiting or failing writes ends a time of them: they come
	// in bursts, and who waits is sometimes being seen to.
	calmTime = 300e6
	// aloneTime is how long the successor of a dead worker may take to serve, and
	// one that runs may be without a word.
	aloneTime = 5e9
	// A worker that has taken no CPU time for stopTime is stopped, or waits for a
	// lock; when it runs it looks around many times a second, whatever it waits for.
	stopTime = 1e9
	// silentTime is how long a worker may be silent: the machine is busy.
	silentTime = 5e9
	// A silence that is shorter counts for gapTime at most: where the CPU is short
	// as well, words come seldom, and what they say may have changed meanwhile.
	gapTime = 500e6
	// restTime is what a process needs to die and its pages to be discarded.
	restTime = 3e9
	// Memory is short below 1/shortShare of the machine's.
	shortShare = 8
)

// alarm is why the OOM killer is to be asked.
type alarm int

const (
	noAlarm  alarm = iota
	noRoom         // writes wait, and no memory comes
	noWorker       // the last one is dead, and the next waits for memory
	noWord         // the worker waits for memory
)

// see takes a reading at the time now, in ns, and says whether to fire if the
// machine is short of memory. free counts slots; inFlight the requests that
// the kernel has under way for the disk.
func (w *watchdog) see(now int64, f *figures, free, inFlight int64) alarm {
	rested := w.fired == 0 || now-w.fired >= restTime
	if free <= 0 || f.orphaned || now-w.heard > silentTime {
		// A worker that is stopped or being replaced makes nothing wait for room.
		w.full, w.stuck = 0, 0
	}
	if f.beat == w.beat {
		if w.alone == 0 {
			w.alone = now
		}
		if w.silent(now, f) && free > 0 && inFlight > 0 && rested {
			return noWord
		}
		if f.orphaned && free > 0 && inFlight > 0 && now-w.alone >= aloneTime && rested {
			return noWorker
		}
		return noAlarm
	}
	w.alone, w.mute = 0, 0
	w.passOver(now - w.heard - gapTime)
	failing, idle, first := f.failed > w.failed, f.requests == w.requests, w.heard == 0
	w.beat, w.failed, w.requests, w.heard = f.beat, f.failed, f.requests, now
	if first || free <= 0 {
		return noAlarm
	}
	if f.waiting > 0 || failing {
		if w.full == 0 || f.used-w.used >= gain {
			w.full, w.used = now, f.used
		}
		w.quiet = now
	} else if now-w.quiet > calmTime {
		w.full = 0
	}
	if inFlight > 0 && idle && f.away == 0 {
		if w.stuck == 0 {
			w.stuck = now
		}
	} else {
		w.stuck = 0
	}
	if rested && (w.full != 0 && now-w.full >= fullTime || w.stuck != 0 && now-w.stuck >= stuckTime) {
		return noRoom
	}
	return noAlarm
}

// silent says whether a worker that runs has told nothing for too long. It serves
// from memory that it has; but should it take some for anything else, as for a
// heap that grows, and there is none, all who have a page in swap wait with it.
func (w *watchdog) silent(now int64, f *figures) bool {
	if f.cpu != w.cpu {
		w.cpu, w.ran = f.cpu, now
	}
	if w.mute == 0 || f.orphaned || now-w.ran > stopTime {
		w.mute = now
	}
	return now-w.mute >= aloneTime
}

// passOver leaves some time, in ns, out of what was counted; less than 0: none.
func (w *watchdog) passOver(time int64) {
	for _, since := range []*int64{&w.full, &w.stuck, &w.quiet} {
		if *since != 0 {
			*since += max(time, 0)
		}
	}
}

// done notes that it fired. The time it waits for counts anew.
func (w *watchdog) done(now int64) { w.fired, w.full, w.stuck, w.mute = now, 0, 0, 0 }

// short says whether a machine has little memory left.
func short(total, available int64) bool { return available < total/shortShare }
