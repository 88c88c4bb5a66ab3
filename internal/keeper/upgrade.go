package keeper

import (
	"encoding/json"
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	opUpgrade = "upgrade"

	helloTime  = 30 * time.Second // for the new program's first word
	mapTime    = 30 * time.Second // for mapping everything
	trialTime  = time.Second      // that the new worker has to live before the program before goes
	checkTime  = time.Minute      // for looking at what it took over
	answerTime = 5 * time.Second  // for the first request, if nobody sends one
	awaitPause = 2 * time.Millisecond

	// trialSilence is the longest that nothing is told of an upgrade: from one
	// word of progress to the end, which may be that the program before serves.
	trialSilence = 2*mapTime + 2*serveTime + checkTime + answerTime + drainTime + patience
)

// trial is an upgrade under way.
type trial struct {
	candidate *process // of the new program
	fallback  *process // of the program before, in case the new one fails; nil: none
	before    *process // the worker that was killed for it
	began     bool     // it was
}

// next is who follows the worker, which is dead, while a trial lasts; nil: as
// always. Who has ended, or is to, follows nobody: no other end of it would come
// that has it replaced.
func (k *keeper) next(t *trial) *process {
	if !t.began {
		return nil
	}
	if p := t.candidate; k.alive(p) == nil && p.killed == "" {
		return p
	}
	p := t.fallback
	t.fallback = nil
	return p
}

// giveUp ends a trial and leaves everything as before, as far as it can. A
// fallback that has not been needed stands by again.
func (k *keeper) giveUp(t *trial) {
	k.trial = nil
	if t.candidate != k.worker {
		k.drop(t.candidate)
	}
	p := t.fallback
	if _, there := k.processes[p]; there && p.killed == "" && k.standby == nil {
		k.standby = p
		k.note(func(c *crashRecord) { c.standby.Store(int64(p.pid)) })
	} else {
		k.drop(p)
	}
	k.due.standby = time.Now().Add(standbyPause)
}

// Upgraded is the outcome of an upgrade.
type Upgraded struct {
	Mountpoint string `json:"mountpoint"`
	Before     string `json:"version_before"`
	Version    string `json:"version"`
	Generation int    `json:"generation"`
	Worker     int    `json:"worker_pid"`
	Keeper     int    `json:"keeper_pid"`
	// Pause is from the end of the old worker to the new one's first answer.
	Pause int64 `json:"pause_us"`
	// Longest is the longest time that the command waited for an answer from
	// the mount meanwhile.
	Longest int64 `json:"longest_wait_us"`
	// KeeperKept says why the keeper goes on with the program before; "": it
	// runs the new one.
	KeeperKept string `json:"keeper_kept,omitempty"`
}

// answerUpgrade replaces the program of worker and keeper by the one that came
// along.
func (k *keeper) answerUpgrade(q *question) (any, error) {
	if q.file == nil {
		return nil, Errorf(CodeUsage, "upgrade: no program came along")
	}
	program, err := highFD(q.file)
	if err != nil {
		return nil, err
	}
	defer program.Close()
	// Until the keeper has become it: a new worker that has to fetch its program
	// from swap fetches it through the worker that it is to replace.
	text, err := lockFile(program)
	if err != nil {
		return nil, &Error{CodeUsage, "the new program does not fit into memory, and the one before goes on", err}
	}
	defer func() {
		if text != nil {
			_ = unix.Munmap(text) // ours
		}
	}()
	var before string
	t := &trial{}
	err = k.do(func() error {
		if err := k.mayUpgrade(); err != nil {
			return err
		}
		k.trial = t
		before = Version()
		if t.candidate, err = k.startWorker(program); err != nil {
			k.trial = nil
			return &Error{CodeUsage, "the new program cannot be executed, and the one before goes on", err}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	result, err := k.try(q, t)
	if err != nil {
		_ = k.do(func() error { k.giveUp(t); return nil }) // where the mount ends there is nothing to take back
		return nil, err
	}
	result.Mountpoint, result.Before = k.boot.Config.Mountpoint, before
	if err := k.settle(t, program); err != nil {
		return nil, err
	}
	_ = k.do(func() error { // for as long as workers run it and this process does not
		if k.programText != nil {
			_ = unix.Munmap(k.programText)
		}
		k.programText, text = text, nil
		return nil
	})
	// exec waits for all threads of this process, and so would for a swapon(2).
	if err = k.buried(t.before); err == nil {
		err = k.withoutSwap(func() error { return errors.Join(k.handOver(q, result), k.watchSwap()) })
	}
	if err != nil {
		result.KeeperKept = OneLine(err)
		_ = k.do(func() error { k.due.standby = time.Now().Add(standbyPause); return nil })
	}
	return result, nil
}

// handOver has the keeper become the new program, which tells the result. It
// returns only if it cannot.
func (k *keeper) handOver(q *question, result *Upgraded) error {
	text, err := json.Marshal(result)
	if err != nil {
		return err
	}
	asker, err := q.conn.conn.File()
	if err != nil {
		return err
	}
	defer asker.Close()
	return k.become(k.program, asker, text)
}

// settle keeps the new program: what was there for the way back goes. If it
// cannot be kept, the next worker is one of the program before.
func (k *keeper) settle(t *trial, program *os.File) error {
	kept, err := highFD(program)
	if err != nil {
		_ = k.do(func() error { k.giveUp(t); return nil }) // as above
		return &Error{CodeFailure, "the new program serves, and cannot be kept", err}
	}
	fallback := t.fallback
	err = k.do(func() error {
		k.trial = nil
		k.note(func(c *crashRecord) { c.upgrades.Add(1) })
		k.drop(fallback)
		if k.program != nil {
			k.program.Close()
		}
		k.program = kept
		return nil
	})
	if err != nil {
		kept.Close()
		return err
	}
	_, err = k.await(drainTime, func() (bool, error) {
		_, there := k.processes[fallback]
		return !there, nil
	})
	return err
}

// mayUpgrade says why not.
func (k *keeper) mayUpgrade() error {
	switch {
	case len(k.held.fuse) == 0:
		return Errorf(CodeUsage, "this mount uses transport gofuse, where the worker owns the mount: "+
			"it cannot be replaced; umount, and mount with the new program")
	case !k.resend:
		return Errorf(CodeLacking, "this kernel does not send requests again (FUSE_NOTIFY_RESEND, Linux 6.9): "+
			"a worker cannot be replaced; umount, and mount with the new program")
	case k.trial != nil:
		return Errorf(CodeBusy, "another upgrade is under way: wait for its end")
	}
	return nil
}

// drop ends a worker that is not wanted any more.
func (k *keeper) drop(p *process) {
	if p != nil {
		if _, there := k.processes[p]; there {
			k.kill(p, "not wanted any more")
		}
	}
}

// await waits until something holds, looking at it on the keeper's goroutine.
func (k *keeper) await(patience time.Duration, holds func() (bool, error)) (bool, error) {
	for end := time.Now().Add(patience); ; time.Sleep(awaitPause) {
		var done bool
		err := k.do(func() (err error) {
			done, err = holds()
			return err
		})
		if err != nil || done {
			return done, err
		}
		if time.Now().After(end) {
			return false, nil
		}
	}
}

// refused says that the new program was not taken.
func refused(format string, args ...any) error {
	return Errorf(CodeUsage, "the new program was refused, and the one before goes on: "+format, args...)
}

// try lets a candidate serve, and goes back if it fails.
func (k *keeper) try(q *question, t *trial) (*Upgraded, error) {
	p := t.candidate
	said, err := k.await(helloTime, func() (bool, error) { return p.stage > started, k.alive(p) })
	if err == nil && !said {
		err = refused("it did not say what it is within %s: it is not zramfs, or the machine is too busy", helloTime)
	}
	if err != nil {
		return nil, err
	}
	q.progress("the new program is %s", p.hello)
	mapped, err := k.await(mapTime, func() (bool, error) { return p.stage >= prepared, k.alive(p) })
	if err == nil && !mapped {
		err = refused("it was not ready within %s", mapTime)
	}
	if err != nil {
		return nil, err
	}
	// Now the worker's end. A standby of its program stays for the way back.
	switched, err := k.await(mapTime, func() (bool, error) {
		if err := k.alive(p); err != nil {
			return false, err
		}
		if k.worker == nil || k.worker.stage != serving {
			return false, nil // it is being replaced
		}
		if k.standby == nil {
			k.moving = true // also where none is wanted otherwise
			k.makeStandby()
			k.moving = false
		}
		if k.standby == nil || k.standby.stage != prepared {
			return false, nil
		}
		t.fallback, k.standby, t.began = k.standby, nil, true
		k.note(func(c *crashRecord) { c.standby.Store(0) })
		k.kill(k.worker, "upgrade")
		t.before = k.worker
		go t.before.watchEnd(k.events)
		return true, nil
	})
	if err == nil && !switched {
		err = refused("the worker was not ready to be replaced within %s", mapTime)
	}
	if err != nil {
		return nil, err
	}
	return k.prove(q, t)
}

// prove watches the new worker until it has shown that it can be kept.
func (k *keeper) prove(q *question, t *trial) (*Upgraded, error) {
	p := t.candidate
	result := &Upgraded{Version: p.hello.Version, Worker: p.pid, Keeper: os.Getpid()}
	ok, err := k.await(serveTime, func() (bool, error) { return p.served, k.alive(p) })
	if err == nil && ok {
		q.progress("the new worker serves")
		ok, err = k.await(checkTime, func() (bool, error) {
			if p.checked && p.failed != nil {
				return false, p.failed
			}
			return p.checked && time.Since(p.went) > trialTime, k.alive(p)
		})
	}
	if err == nil && !ok {
		err = errors.New("it took too long")
	}
	if err == nil {
		_, err = k.await(answerTime, func() (bool, error) { // nobody may be asking anything
			c := k.header.crash()
			result.Pause, result.Generation = c.recovery().Microseconds(), k.generation
			return c.firstAnswer.Load() != 0, k.alive(p)
		})
	}
	if err == nil {
		return result, nil
	}
	// Back. If it is dead the fallback is taking over already.
	reason := OneLine(err)
	served, err := k.await(serveTime, func() (bool, error) {
		if k.worker == p {
			if p.killed == "" {
				k.kill(p, "the upgrade failed: "+reason)
			}
			return false, nil
		}
		// The one that was killed for the candidate may not have been seen gone yet.
		return k.worker.served && k.worker.stage == serving && k.worker.killed == "", nil
	})
	if err == nil && !served {
		err = errors.New("the program before does not serve either, so far")
	}
	if err != nil {
		return nil, Errorf(CodeFailure, "the new program failed (%s); going back: %s", reason, OneLine(err))
	}
	return nil, Errorf(CodeFailure, "the new program failed, and the one before serves again: %s", reason)
}

// alive is an error if a candidate has ended.
func (k *keeper) alive(p *process) error {
	if _, there := k.processes[p]; there && p.failed == nil {
		return nil
	}
	if p.stage == started && p.failed == nil {
		return refused("it ended without saying what it is (%s): it is not zramfs, or crashes at start", p.why())
	}
	return refused("%s", p.why())
}
