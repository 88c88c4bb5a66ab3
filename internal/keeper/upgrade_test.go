package keeper

import (
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/zramfs/zramfs/internal/host"
	"github.com/zramfs/zramfs/internal/shm"
)

// idleKeeper is a keeper that has served, with nobody on its goroutine: the test
// is that. What it starts ends at once.
func idleKeeper(t *testing.T) *keeper {
	t.Helper()
	region, err := shm.AdoptSource(nil).Create(roleHeader, headerSize)
	if err != nil {
		t.Fatal(err)
	}
	k := &keeper{
		processes: make(map[*process]struct{}), clock: time.NewTimer(time.Hour), events: make(chan event),
		calls: make(chan func()), ended: make(chan struct{}), generation: 2, resend: true, source: shm.AdoptSource(nil),
	}
	k.boot.Config.Mountpoint = t.TempDir()
	if k.header, err = makeHeader(region); err != nil {
		t.Fatal(err)
	}
	if k.program, err = os.Open("/bin/true"); err != nil {
		t.Skipf("needs a program to run: %v", err)
	}
	t.Cleanup(func() {
		close(k.ended)
		region.Close()
		k.program.Close()
	})
	return k
}

// sleeper is a process that the keeper takes for a worker. It never says
// anything; its end is told by end.
func sleeper(t *testing.T, k *keeper, at stage) *process {
	t.Helper()
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Skipf("needs a program to run: %v", err)
	}
	p := &process{pid: cmd.Process.Pid, over: make(chan struct{}), stage: at, served: at == serving}
	ours, theirs, err := controlPair()
	if err != nil {
		t.Fatal(err)
	}
	p.control = ours
	if p.pidfd, err = host.Watch(p.pid); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have been
		_ = cmd.Wait()
		theirs.Close()
		p.close()
	})
	k.processes[p] = struct{}{}
	return p
}

// end is what the keeper hears when a process has ended.
func end(k *keeper, p *process) { k.handle(event{p: p, gone: true}) }

// A candidate that ends while the worker that it is to replace is still on its
// way out is not waited for: nobody would tell a second time that it has ended.
func TestDeadCandidateIsNoHeir(t *testing.T) {
	k := idleKeeper(t)
	k.worker = sleeper(t, k, serving)
	candidate, fallback := sleeper(t, k, prepared), sleeper(t, k, prepared)
	k.trial = &trial{candidate: candidate, fallback: fallback, began: true}
	k.kill(k.worker, "upgrade")
	end(k, candidate)
	end(k, k.worker)
	if k.worker != fallback || fallback.stage != going {
		t.Errorf("the fallback is at stage %d and not the worker: %v", fallback.stage, k.worker != fallback)
	}
}

// The candidate is told to go when the worker before does nothing any more, which
// nobody has to reap it for; its end, when that comes, is nobody's any more.
func TestCandidateGoesBeforeTheWorkerIsReaped(t *testing.T) {
	k := idleKeeper(t)
	before := sleeper(t, k, serving)
	k.worker = before
	candidate := sleeper(t, k, prepared)
	k.trial = &trial{candidate: candidate, began: true}
	k.kill(before, "upgrade")
	go before.watchEnd(k.events)
	k.handle(<-k.events)
	if k.worker != candidate || candidate.stage != going {
		t.Fatal("the candidate is not the worker")
	}
	if _, there := k.processes[before]; !there {
		t.Error("who is not reaped is forgotten")
	}
	end(k, before)
	if k.worker != candidate || k.generation != 3 || k.failures != 0 {
		t.Errorf("generation %d, %d failures, the candidate serves: %t", k.generation, k.failures, k.worker == candidate)
	}
	if n := k.header.crash().deaths.Load(); n != 0 {
		t.Errorf("%d deaths are counted", n)
	}
}

// No heir is a candidate that took over, and after it the fallback did.
func TestDeadCandidateAndFallback(t *testing.T) {
	k := idleKeeper(t)
	k.worker = sleeper(t, k, serving)
	candidate, fallback := sleeper(t, k, prepared), sleeper(t, k, prepared)
	k.trial = &trial{candidate: candidate, fallback: fallback, began: true}
	k.kill(k.worker, "upgrade")
	end(k, k.worker)
	if k.worker != candidate || candidate.stage != going {
		t.Fatal("the candidate is not the worker")
	}
	candidate.served = true
	end(k, candidate)
	if k.worker != fallback || fallback.stage != going {
		t.Fatal("the fallback is not the worker")
	}
	fallback.served = true
	k.standby = sleeper(t, k, prepared)
	standby := k.standby
	end(k, fallback)
	if k.worker != standby || standby.stage != going || k.standby != nil {
		t.Error("the standby is not the worker")
	}
}

// serveCalls does what is sent to the keeper's goroutine, so many times or until a
// result comes.
func serveCalls[T any](k *keeper, most int, result <-chan T) (r T, came bool) {
	for range most {
		select {
		case f := <-k.calls:
			f()
		case r = <-result:
			return r, true
		}
	}
	return r, false
}

// Going back is not done as long as the worker that was killed for the
// candidate has not been seen to end, and the fallback is there for it.
func TestGoingBackWaitsForTheFallback(t *testing.T) {
	k := idleKeeper(t)
	old := sleeper(t, k, serving)
	k.worker = old
	candidate, fallback := sleeper(t, k, prepared), sleeper(t, k, prepared)
	tr := &trial{candidate: candidate, fallback: fallback, began: true}
	k.trial = tr
	k.kill(old, "upgrade")
	end(k, candidate)
	result := make(chan error, 1)
	go func() {
		_, err := k.prove(&question{}, tr)
		result <- err
	}()
	if err, came := serveCalls(k, 20, result); came {
		t.Fatalf("gone back before anybody took over: %v", err)
	}
	end(k, old)
	k.worker.stage, k.worker.served = serving, true
	if _, came := serveCalls(k, 20, result); !came || k.worker != fallback {
		t.Errorf("the fallback serves: %v, and that was seen: %v", k.worker == fallback, came)
	}
}

// A trial that is over before its fallback was needed leaves it as the standby.
func TestFallbackStandsByAgain(t *testing.T) {
	k := idleKeeper(t)
	k.worker = sleeper(t, k, serving)
	candidate, fallback := sleeper(t, k, prepared), sleeper(t, k, prepared)
	tr := &trial{candidate: candidate, fallback: fallback, began: true}
	k.trial = tr
	k.giveUp(tr)
	if k.trial != nil || k.standby != fallback || fallback.killed != "" || candidate.killed == "" {
		t.Errorf("trial %v, fallback stands by %v (%s), candidate killed %q", k.trial, k.standby == fallback, fallback.killed, candidate.killed)
	}
}

// A program that cannot be kept ends its trial, and another may follow.
func TestSettleFails(t *testing.T) {
	k := idleKeeper(t)
	candidate, fallback := sleeper(t, k, serving), sleeper(t, k, prepared)
	k.worker = candidate
	tr := &trial{candidate: candidate, fallback: fallback, began: true}
	k.trial = tr
	program, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	program.Close()
	result := make(chan error, 1)
	go func() { result <- k.settle(tr, program) }()
	if err, came := serveCalls(k, 2, result); !came || err == nil {
		t.Fatalf("settled with a program that is closed: %v", err)
	}
	if k.trial != nil || k.standby != fallback || k.worker != candidate || candidate.killed != "" {
		t.Errorf("trial %v, worker killed %q, fallback stands by %v", k.trial, candidate.killed, k.standby == fallback)
	}
}
