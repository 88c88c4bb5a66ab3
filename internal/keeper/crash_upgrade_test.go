//go:build crashpoints

package keeper

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zramfs/zramfs/internal/shm"
)

// estateOf is what a worker that serves gives to the keeper that it starts.
func estateOf(t *testing.T, k *keeper, worker *process) *estate {
	t.Helper()
	give := func(f *os.File) int {
		fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		return fd
	}
	buffers, err := shm.AdoptSource(nil).Create(roleBuffers, roundUp(k.held.layout.Bytes(0)))
	if err != nil {
		t.Fatal(err)
	}
	_, theirs, err := controlPair()
	if err != nil {
		t.Fatal(err)
	}
	e := &estate{
		Generation: k.generation, Orphan: true, Roles: []string{roleHeader, roleBuffers},
		Files:   []int{give(k.header.region.File()), give(buffers.File())},
		Workers: []heir{{PID: worker.pid, PIDFD: give(worker.pidfd), Control: give(theirs), Stage: int(serving)}},
	}
	theirs.Close()
	buffers.Close()
	return e
}

// successorTo is a keeper that takes over from one that is dead, with a worker that
// serves; it may die in that itself, at its k-th point.
func successorTo(t *testing.T, dead *keeper, worker *process, seen points, k int64) (next *keeper, point string) {
	t.Helper()
	dead.header.crash().caretaker.Store(int64(worker.pid)) // by the worker: replaceKeeper
	next = idleKeeper(t)
	next.generation = 0
	e := estateOf(t, dead, worker)
	point = seen.dies(k, func() {
		if err := next.takeUp(e); err != nil {
			t.Error(err)
		}
	})
	next.resend = true // the estate says no, so that no worker of its own is started
	return next, point
}

// The keeper dies at every point of an upgrade while a worker serves, and so does
// the one that takes over. The next one has the worker, nobody who waits for it,
// and at most one upgrade; and when the worker dies, another follows.
func TestCrashInUpgrade(t *testing.T) {
	seen := points{}
	steps := map[string]func(k *keeper, t *trial){
		"a standby is ready":  func(k *keeper, tr *trial) { k.standby = tr.fallback; k.ready(tr.fallback) },
		"given up":            func(k *keeper, tr *trial) { k.giveUp(tr) },
		"a standby has ended": func(k *keeper, tr *trial) { k.standby = tr.fallback; end(k, tr.fallback) },
		"settled": func(k *keeper, tr *trial) {
			k.trial = nil
			k.note(func(c *crashRecord) { c.upgrades.Add(1) })
			k.drop(tr.fallback)
		},
	}
	for _, name := range slices.Sorted(maps.Keys(steps)) {
		for k, first := int64(1), "?"; first != ""; k++ {
			for m, second := int64(0), "?"; first != "" && (second != "" || m == 1); m++ {
				t.Run(fmt.Sprintf("%s %d.%d", name, k, m), func(t *testing.T) {
					first, second = crashInUpgrade(t, seen, steps[name], name == "settled", k, m)
				})
			}
		}
	}
	seen.has(t, "keeper.note", "keeper.noted", "crash.care", "crash.cared", "keeper.inherit", "keeper.inherited", "keeper.counted", "keeper.alone")
}

// crashInUpgrade has the keeper die at the k-th point of a step, and with m the next
// keeper at its m-th. It says where; "" is nowhere.
func crashInUpgrade(t *testing.T, seen points, step func(*keeper, *trial), settles bool, k, m int64) (first, second string) {
	kp := idleKeeper(t)
	c := kp.header.crash()
	c.generations.Store(2)
	kp.worker = sleeper(t, kp, serving)
	worker := kp.worker
	c.goes(int64(worker.pid))
	tr := &trial{candidate: worker, fallback: sleeper(t, kp, prepared), began: true}
	kp.trial = tr
	if first = seen.dies(k, func() { step(kp, tr) }); first == "" {
		return "", ""
	}
	next, second := successorTo(t, kp, worker, seen, m)
	if second != "" {
		next, _ = successorTo(t, next, worker, seen, 0)
	}
	c = next.header.crash()
	if n := c.upgrades.Load(); n > 1 || n == 1 && !settles {
		t.Errorf("died at %q and %q: %d upgrades", first, second, n)
	}
	if c.deaths.Load() != 0 || c.standby.Load() != 0 || c.worker.Load() != int64(worker.pid) || c.keeper.Load() != int64(os.Getpid()) {
		t.Errorf("died at %q and %q: %d deaths, standby %d, worker %d (%d), keeper %d", first, second, c.deaths.Load(), c.standby.Load(),
			c.worker.Load(), worker.pid, c.keeper.Load())
	}
	if n := c.keepers.Load(); n == 0 || n > 2 || next.worker == nil || next.worker.pid != worker.pid {
		t.Fatalf("died at %q and %q: %d keepers came after another; the worker is %+v", first, second, n, next.worker)
	}
	heir := sleeper(t, next, prepared)
	next.standby = heir
	end(next, next.worker)
	if next.worker != heir || c.worker.Load() != int64(heir.pid) || c.deaths.Load() != 1 || c.generations.Load() != 3 {
		t.Errorf("died at %q and %q: the worker died, and there is %+v, %d deaths, generation %d", first, second,
			next.worker, c.deaths.Load(), c.generations.Load())
	}
	return first, second
}
