package keeper

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zramfs/zramfs/internal/invariants"
)

const (
	// quickDeath is the age below which a worker's death counts as one that
	// the next worker will die of as well, if it was its own doing.
	quickDeath = time.Second
	// The pause before the next worker doubles with each such death but the
	// first.
	firstPause = 50 * time.Millisecond
	maxPause   = 5 * time.Second
	// maxFailures workers in a row that never served end the mount.
	maxFailures = 10
	// serveTime is how long a worker may take from the order to its first
	// answer before it is taken for stuck and replaced.
	serveTime = 60 * time.Second
	// standbyPause keeps the start of the next standby off the first moments
	// of a new worker.
	standbyPause = time.Second
)

// startWorker starts a worker; it is told what it needs when it has said hello.
func (k *keeper) startWorker(program *os.File) (*process, error) {
	p, err := spawn(program, k.boot.Config.Mountpoint)
	if err != nil {
		return nil, err
	}
	k.processes[p] = struct{}{}
	go p.listen(k.events)
	return p, nil
}

// handle does what a worker's message, or its end, asks for.
func (k *keeper) handle(e event) {
	p := e.p
	switch {
	case e.gone:
		k.gone(p)
	case e.ending:
		if _, there := k.processes[p]; there && p == k.worker {
			k.lost(p)
		}
	case e.m.Kind == msgHello && e.m.Hello != nil && p.stage == started:
		p.hello = *e.m.Hello
		k.configure(p)
	case e.m.Kind == msgRegion && len(e.files) == 1:
		k.hold(p, e.m.Name, e.files[0])
		return // the file is held
	case e.m.Kind == msgDrop:
		k.letGo(p, e.m.Name)
	case e.m.Kind == msgPopulate && e.m.Range != nil:
		k.populate(p, e.m.Name, *e.m.Range)
	case e.m.Kind == msgPrepared && p.stage == configured:
		p.stage = prepared
		switch {
		case p == k.worker:
			k.order(p)
		case p == k.standby:
			k.ready(p)
		}
	case e.m.Kind == msgReady && p.stage == going:
		k.serving(p, e.m)
	case e.m.Kind == msgChecked:
		if e.m.Failed != nil {
			p.failed = e.m.Failed.error()
		}
		p.checked = true
	case e.m.Kind == msgFailed && e.m.Failed != nil:
		p.failed = e.m.Failed.error()
	case e.m.Kind == msgSay:
		for _, line := range e.m.Notes {
			k.say("%s", line)
		}
	}
	closeAll(e.files)
}

// configure gives a worker everything that is held.
func (k *keeper) configure(p *process) {
	if err := p.hello.check(); err != nil {
		p.failed = err
		p.signal(unix.SIGKILL)
		return
	}
	p.stage = configured
	roles, files := k.held.base()
	a := assignment{
		Config:   k.boot.Config,
		Device:   k.dev,
		Notes:    k.boot.Notes,
		InCgroup: k.boot.InCgroup,
		Locked:   k.boot.Locked,
		Flusher:  k.boot.Flusher,
		OOMScore: k.boot.OOMScore,
		CPUs:     k.held.cpus,
		Layout:   k.held.layout,
		Roles:    roles,
		Regions:  len(k.held.regions),
		Keeper:   os.Getpid(),
	}
	err := p.control.send(message{Kind: msgConfig, Worker: &a}, files...)
	for name, f := range k.held.regions {
		if err == nil {
			err = p.control.send(message{Kind: msgRegion, Name: name}, f)
		}
	}
	k.sent(p, err)
}

// sent looks at the outcome of sending. Who takes nothing is stuck, or is dead
// already, and then its end tells more.
func (k *keeper) sent(p *process, err error) {
	if err != nil {
		p.failed = fmt.Errorf("worker %d takes no message: %w", p.pid, err)
		p.signal(unix.SIGKILL)
	}
}

// hold keeps a region that the worker made. Who waits to serve gets it too.
func (k *keeper) hold(p *process, name string, f *os.File) {
	k.held.put(name, f)
	k.locker.forget(name)
	if !k.source.NoSwap() && k.header.region != nil && !isBacking(name) {
		if _, err := k.locker.pin(name, f); err != nil {
			k.say("%v: it may be swapped out", err)
		}
	}
	for other := range k.processes {
		if other != p && (other.stage == configured || other.stage == prepared) {
			k.sent(other, other.control.send(message{Kind: msgRegion, Name: name}, f))
		}
	}
}

// letGo forgets a region that the worker dropped.
func (k *keeper) letGo(p *process, name string) {
	k.held.drop(name)
	k.locker.forget(name)
	for other := range k.processes {
		if other != p && (other.stage == configured || other.stage == prepared) {
			k.sent(other, other.control.send(message{Kind: msgDrop, Name: name}))
		}
	}
}

// order tells a worker to serve. Nobody else does any more.
func (k *keeper) order(p *process) {
	k.generation++
	k.moving = false
	o := order{Generation: k.generation, Resume: k.resend}
	if k.header.region != nil {
		c := k.header.crash()
		invariants.CrashPoint("keeper.order")
		c.generations.Store(uint64(k.generation))
		c.goes(int64(p.pid))
		o.Fault = c.unjudged.Load() != 0
		o.Verify = k.trial != nil && k.trial.candidate == p
	}
	p.stage, p.went = going, time.Now()
	k.due.served = p.went.Add(serveTime)
	k.sent(p, p.control.send(message{Kind: msgGo, Order: &o}))
}

// serving: the worker answers requests.
func (k *keeper) serving(p *process, m message) {
	if err := k.startPump(); err != nil {
		k.finish(err)
		return
	}
	p.stage, p.served = serving, true
	k.due.served = time.Time{}
	if k.generation == 1 {
		k.boot.Notes = append(k.boot.Notes, m.Notes...)
	}
	if k.dev == "" { // it mounted
		var err error
		if k.dev, err = deviceOf(k.boot.Config.Mountpoint); err != nil {
			k.finish(err)
			return
		}
	}
	k.resend = m.Resend && len(k.held.fuse) > 0
	if k.trial == nil {
		k.due.standby = time.Now().Add(standbyPause)
	}
}

// gone: a worker has ended, and everything it said before was handled.
func (k *keeper) gone(p *process) {
	delete(k.processes, p)
	p.close()
	close(p.over)
	switch p {
	case k.standby:
		k.standby = nil
		k.note(func(c *crashRecord) { c.standby.Store(0) })
		k.say("standby %d ended (%s)", p.pid, p.why())
		k.due.standby = time.Now().Add(standbyPause)
		if p.stage < prepared {
			k.due.standby = time.Now().Add(maxPause)
		}
	case k.worker:
		if !p.replaced {
			k.lost(p)
		}
	}
	if k.trial != nil && p == k.trial.fallback {
		k.trial.fallback = nil
	}
}

// why says how a process that is gone ended, in its own words if it had any.
func (p *process) why() string {
	switch {
	case p.killed != "":
		return p.killed
	case p.failed != nil:
		return OneLine(p.failed)
	}
	return p.status.text
}

// lost: the worker that serves, or was to serve, has ended, or is about to and
// will touch nothing. Another takes its place, unless nobody needs one.
func (k *keeper) lost(p *process) {
	p.replaced = true
	point := k.boot.Config.Mountpoint
	switch {
	case k.generation <= 1 && !p.served && !k.resend: // and none before it did
		err := p.failed
		if err == nil {
			err = Errorf(CodeFailure, "the worker ended before it could serve: %s", p.status.text)
		} else if e, ok := err.(*Error); ok && p.status.line != "" && p.status.line != e.Text {
			err = &Error{e.Code, e.Text + ": " + p.status.line, nil} // what fusermount3 said
		}
		k.finish(err)
		return
	case k.held.over(), len(k.held.fuse) == 0 && p.status.clean:
		k.finish(nil) // unmounted by someone else
		return
	case !k.resend:
		k.finish(Errorf(CodeFailure, "worker %d ended (%s): the mount on %s ends with it", p.pid, p.why(), point))
		return
	}
	now := time.Now()
	fault := p.status.fault && p.killed == ""
	c := k.header.crash()
	at := p.killedAt
	if at == 0 {
		at = monotonic()
	}
	c.died(at, p.why())
	if p.killed == "" {
		c.countDeath()
		k.say("worker %d ended (%s): another takes over", p.pid, p.why())
	}
	if fault && p.served {
		c.unjudged.Store(unjudgedAll)
		invariants.CrashPoint("keeper.lost.fault")
		c.faults.Add(1)
		invariants.CrashPoint("keeper.lost.faults")
	}
	c.worker.Store(0) // last: who finds it notes the end himself
	invariants.CrashPoint("keeper.lost")
	switch {
	case !p.served && p.status.slain && p.killed == "":
		k.failures = min(k.failures+1, maxFailures-1) // however often: the next one may be let live
	case !p.served:
		k.failures++
	case fault && now.Sub(p.went) < quickDeath:
		k.failures = min(k.failures+1, maxFailures-1) // it did serve
	default:
		k.failures = 0
	}
	if k.failures >= maxFailures {
		k.finish(Errorf(CodeFailure, "%d workers in a row ended before they served, the last: %s: the mount on %s ends",
			k.failures, p.why(), point))
		return
	}
	k.due.served = time.Time{}
	if k.failures > 1 {
		k.due.replace = now.Add(min(firstPause<<(k.failures-2), maxPause))
		return
	}
	k.replace()
}

// replace makes the standby the worker, or starts one.
func (k *keeper) replace() {
	k.due.replace = time.Time{}
	if k.held.over() {
		k.finish(nil) // unmounted meanwhile
		return
	}
	next := k.successor()
	if next == nil {
		var err error
		if next, err = k.startWorker(k.program); err != nil {
			k.failures = min(k.failures+1, maxFailures-1) // no memory, perhaps, and that passes
			k.say("%v: tried again in %s", err, maxPause)
			k.due.replace = time.Now().Add(maxPause)
			return
		}
	}
	k.worker = next
	k.due.served = time.Now().Add(serveTime)
	if next.stage == prepared {
		k.order(next)
	}
}

// successor takes the process that is to serve next; nil: there is none.
func (k *keeper) successor() *process {
	if k.trial != nil {
		if p := k.next(k.trial); p != nil {
			return p
		}
	}
	p := k.standby
	k.standby = nil
	k.note(func(c *crashRecord) { c.standby.Store(0) })
	return p
}

// note writes the crash record where there is one.
func (k *keeper) note(write func(c *crashRecord)) {
	if k.header.region != nil {
		invariants.CrashPoint("keeper.note")
		write(k.header.crash())
		invariants.CrashPoint("keeper.noted")
	}
}
