package keeper

import (
	"testing"
	"time"
	"unsafe"
)

// kennel is a watchdog and what it sees, every 50 ms.
type kennel struct {
	dog    watchdog
	now    int64
	f      figures
	free   int64
	moving int64
}

func newKennel() *kennel {
	k := &kennel{now: 1e9, free: 1000}
	k.tick(nil)
	return k
}

// tick lets time pass; change may be nil.
func (k *kennel) tick(change func(*kennel)) bool {
	k.now += int64(lookTime)
	k.f.beat++
	if change != nil {
		change(k)
	}
	return k.dog.see(k.now, &k.f, k.free, k.moving) != noAlarm
}

// until counts the time until it fires, at most limit.
func (k *kennel) until(limit time.Duration, change func(*kennel)) (time.Duration, bool) {
	start := k.now
	for time.Duration(k.now-start) < limit {
		if k.tick(change) {
			return time.Duration(k.now - start), true
		}
	}
	return limit, false
}

func TestWatchdog(t *testing.T) {
	const long = time.Minute
	served := func(k *kennel) { k.f.requests++ }
	for _, c := range []struct {
		name   string
		change func(*kennel)
		after  time.Duration // 0: never
	}{
		{"an idle machine", nil, 0},
		{"a busy machine", func(k *kennel) { k.f.requests += 1000; k.moving = 128 }, 0},
		{"writes wait", func(k *kennel) { k.f.waiting = 3; served(k) }, fullTime},
		{"writes fail", func(k *kennel) { k.f.failed++; served(k) }, fullTime},
		{"some are answered now and then", func(k *kennel) { k.f.waiting = k.now / int64(lookTime) % 4; served(k) }, fullTime},
		{"a slow machine, whose memory still comes", func(k *kennel) { k.f.waiting = 3; k.f.used += gain / 16; served(k) }, 0},
		{"hardly any memory comes", func(k *kennel) { k.f.waiting = 3; k.f.used++; served(k) }, fullTime},
		{"a moment of waiting each second", func(k *kennel) {
			k.f.waiting = 0
			if k.now%int64(time.Second) == 0 {
				k.f.waiting = 5
			}
			served(k)
		}, 0},
		{"requests that never come", func(k *kennel) { k.moving = 12 }, stuckTime},
		{"a backing device that stalls", func(k *kennel) { k.moving, k.f.away = 12, 12 }, 0},
		{"a backing device that stalls for a second, and requests that never come", func(k *kennel) {
			k.moving, k.f.away = 12, 12
			if k.now > 2e9 {
				k.f.away = 0
			}
		}, 1e9 + stuckTime},
		{"no slots: the kernel helps itself", func(k *kennel) { k.f.waiting, k.free = 3, 0 }, 0},
		{"a worker that is stopped", func(k *kennel) { k.f.waiting, k.f.beat, k.moving = 3, 7, 12 }, 0},
	} {
		k := newKennel()
		took, fired := k.until(long, c.change)
		if fired != (c.after != 0) || fired && (took < c.after || took > c.after+500*time.Millisecond) {
			t.Errorf("%s: fired %v after %v, want %v", c.name, fired, took, c.after)
		}
	}
}

// TestWatchdogRests: it fires again only when what it did had time to help.
func TestWatchdogRests(t *testing.T) {
	k := newKennel()
	wait := func(k *kennel) { k.f.waiting = 1 }
	if _, fired := k.until(time.Minute, wait); !fired {
		t.Fatal("it never fired")
	}
	k.dog.done(k.now)
	took, fired := k.until(time.Minute, wait)
	if !fired || took < restTime {
		t.Errorf("again %v after %v", fired, took)
	}
	k.dog.done(k.now)
	if _, fired := k.until(time.Minute, func(k *kennel) { k.f.waiting = 0; k.f.requests++ }); fired {
		t.Error("it fired although it had helped")
	}
}

// TestWatchdogWaitsForTheWorker: what a stopped worker last said is no reason,
// and neither is the time for which it was stopped.
func TestWatchdogWaitsForTheWorker(t *testing.T) {
	k := newKennel()
	k.f.waiting = 9
	k.tick(nil)
	k.now += int64(20 * time.Second)
	if k.dog.see(k.now, &k.f, k.free, 99) != noAlarm {
		t.Error("it fired at a worker that is stopped")
	}
	if k.tick(nil) {
		t.Error("it fired at the first word after a stop")
	}
	if took, fired := k.until(time.Minute, nil); !fired || took < fullTime/2 {
		t.Errorf("then it fired %v after %v", fired, took)
	}
}

// TestWatchdogMissesTheWorker: when the worker is dead and requests wait, the
// next one has some time to serve; not when it is only stopped, nothing waits,
// or the kernel is out of slots.
func TestWatchdogMissesTheWorker(t *testing.T) {
	dead := func(k *kennel) { k.f.beat, k.f.orphaned, k.moving = 7, true, 12 }
	for _, c := range []struct {
		name   string
		change func(*kennel)
		after  time.Duration // 0: never
	}{
		{"dead", dead, aloneTime},
		{"stopped", func(k *kennel) { dead(k); k.f.orphaned = false }, 0},
		{"nothing waits", func(k *kennel) { dead(k); k.moving = 0 }, 0},
		{"no slots", func(k *kennel) { dead(k); k.free = 0 }, 0},
		{"the next one serves in time", func(k *kennel) {
			dead(k)
			if k.now > 4e9 {
				k.f.orphaned, k.f.beat = false, k.now
				k.f.requests++
			}
		}, 0},
	} {
		for _, k := range []*kennel{newKennel(), {now: 1e9, free: 1000, f: figures{beat: 6}}} { // the other: a keeper that was just started
			took, fired := k.until(time.Minute, c.change)
			if fired != (c.after != 0) || fired && (took < c.after || took > c.after+500*time.Millisecond) {
				t.Errorf("%s: fired %v after %v, want %v", c.name, fired, took, c.after)
			}
			if !fired {
				continue
			}
			k.dog.done(k.now)
			if took, fired := k.until(time.Minute, c.change); !fired || took < restTime {
				t.Errorf("%s: again %v after %v", c.name, fired, took)
			}
		}
	}
}

// TestWatchdogHearsSeldom: where the CPU is short as well the worker's words come
// a second or two apart. They count, but a moment of waiting does not, and a
// silence less than words.
func TestWatchdogHearsSeldom(t *testing.T) {
	seldom := func(change func(k *kennel)) func(*kennel) {
		said := int64(0)
		return func(k *kennel) {
			k.f.beat = 1000 + k.now/int64(1500*time.Millisecond)
			if k.f.beat != said {
				said = k.f.beat
				change(k)
			}
		}
	}
	for _, c := range []struct {
		name  string
		every func(*kennel)
		most  time.Duration // 0: never
	}{
		{"writes wait", seldom(func(k *kennel) { k.f.waiting = 3; k.f.requests++ }), 6 * time.Second},
		{"an idle machine", seldom(func(*kennel) {}), 0},
		{"now and then they wait", seldom(func(k *kennel) { k.f.waiting = 3 * (k.f.beat % 2); k.f.requests++ }), 0},
		{"room comes", seldom(func(k *kennel) { k.f.waiting = 3; k.f.used += gain; k.f.requests++ }), 0},
		{"no slots", seldom(func(k *kennel) { k.f.waiting, k.free = 3, 0 }), 0},
	} {
		k := newKennel()
		took, fired := k.until(time.Minute, c.every)
		if fired != (c.most != 0) || fired && (took < fullTime || took > c.most) {
			t.Errorf("%s: fired %v after %v, want at most %v", c.name, fired, took, c.most)
		}
	}
}

// TestWatchdogMissesAWord: a worker that runs, serves nobody and tells nothing
// waits for memory. One that is stopped does not run, and is given its time again
// when it does.
func TestWatchdogMissesAWord(t *testing.T) {
	mute := func(k *kennel) { k.f.beat, k.moving, k.f.cpu = 7, 12, k.now/100 }
	for _, c := range []struct {
		name   string
		change func(*kennel)
		after  time.Duration // 0: never
	}{
		{"it waits", mute, aloneTime},
		{"it hardly gets a CPU", func(k *kennel) { mute(k); k.f.cpu = k.now / int64(800*time.Millisecond) }, aloneTime},
		{"nobody wants anything", func(k *kennel) { mute(k); k.moving = 0 }, 0},
		{"no slots", func(k *kennel) { mute(k); k.free = 0 }, 0},
		{"stopped", func(k *kennel) { mute(k); k.f.cpu = 5 }, 0},
		{"gone", func(k *kennel) { mute(k); k.f.cpu = 0 }, 0},
		{"it says something every four seconds", func(k *kennel) { mute(k); k.f.beat = k.now / 4e9; k.f.requests++ }, 0},
		{"stopped for a while", func(k *kennel) {
			mute(k)
			if k.now < 20e9 {
				k.f.cpu = 5
			}
		}, 19*time.Second + aloneTime},
	} {
		k := newKennel()
		k.f.beat = 7
		took, fired := k.until(time.Minute, c.change)
		if fired != (c.after != 0) || fired && (took < c.after-stopTime || took > c.after+500*time.Millisecond) {
			t.Errorf("%s: fired %v after %v, want %v", c.name, fired, took, c.after)
		}
		if fired {
			k.dog.done(k.now)
			if took, fired := k.until(time.Minute, c.change); !fired || took < aloneTime {
				t.Errorf("%s: again %v after %v", c.name, fired, took)
			}
		}
	}
}

// TestWatchdogForgetsTheDead: what a worker last said is void when it has died.
func TestWatchdogForgetsTheDead(t *testing.T) {
	k := newKennel()
	k.f.waiting = 3
	for range 15 {
		k.tick(nil)
	}
	dead, last := k.now, k.f.beat
	for k.now-dead < int64(time.Second) {
		if k.tick(func(k *kennel) { k.f.beat, k.f.orphaned = last, true }) {
			t.Fatal("it fired at a dead worker")
		}
	}
	k.f.orphaned = false
	if took, fired := k.until(time.Minute, nil); !fired || took < fullTime {
		t.Errorf("at its successor it fired %v after %v", fired, took)
	}
}

func TestShort(t *testing.T) {
	if short(1<<30, 1<<28) || !short(1<<30, 1<<20) {
		t.Error("a quarter free is not short, a thousandth is")
	}
}

// TestRoomPage: where each group lies is the same for workers and keepers of
// other versions.
func TestRoomPage(t *testing.T) {
	var p roomPage
	for _, c := range []struct {
		name     string
		at, want uintptr
	}{
		{"beat", unsafe.Offsetof(p.beat), 0},
		{"populated", unsafe.Offsetof(p.populated), 88},
		{"away", unsafe.Offsetof(p.away), 96},
		{"total", unsafe.Offsetof(p.total), 128},
		{"wanted", unsafe.Offsetof(p.wanted), 384},
		{"armed", unsafe.Offsetof(p.armed), 512},
	} {
		if c.at != c.want {
			t.Errorf("%s at %d, want %d", c.name, c.at, c.want)
		}
	}
}
