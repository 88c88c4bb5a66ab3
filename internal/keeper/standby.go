package keeper

import (
	"fmt"
	"time"
)

// setClock sets the clock to the next thing that is due.
func (k *keeper) setClock() {
	next := time.Now().Add(time.Hour)
	for _, at := range []time.Time{k.due.replace, k.due.served, k.due.standby, k.due.look} {
		if !at.IsZero() && at.Before(next) {
			next = at
		}
	}
	k.clock.Reset(time.Until(next))
}

// tick does what is due.
func (k *keeper) tick(now time.Time) {
	past := func(at *time.Time) bool {
		if at.IsZero() || now.Before(*at) {
			return false
		}
		*at = time.Time{}
		return true
	}
	if past(&k.due.replace) {
		k.replace()
	}
	if past(&k.due.served) && k.worker != nil && !k.worker.served {
		k.kill(k.worker, fmt.Sprintf("it did not serve within %s, and was killed", serveTime))
	}
	// One that is started while nobody serves takes the memory that who is to
	// serve needs, and nobody frees any; it is due again when that one serves.
	if past(&k.due.standby) && k.worker != nil && k.worker.stage == serving {
		k.makeStandby()
	}
	if past(&k.due.look) {
		k.lookForMore()
	}
}

// makeStandby starts a worker that waits, where one can take over.
func (k *keeper) makeStandby() {
	unwanted := k.boot.Config.NoStandby || k.boot.Config.leavesOut(guardStandby)
	if k.standby != nil || !k.resend || unwanted && !k.moving {
		return
	}
	p, err := k.startWorker(k.program)
	if err != nil {
		k.say("no standby: %v", err)
		k.due.standby = time.Now().Add(maxPause)
		return
	}
	k.standby = p
}

// ready: the standby can take over at any time now.
func (k *keeper) ready(p *process) {
	k.note(func(c *crashRecord) { c.standby.Store(int64(p.pid)) })
	if k.moving {
		k.moving = false
		if k.worker.stage == serving {
			k.kill(k.worker, "its keeper died before it")
		}
	}
}
