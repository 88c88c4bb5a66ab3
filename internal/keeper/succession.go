package keeper

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zramfs/zramfs/internal/fuseconn"
	"github.com/zramfs/zramfs/internal/invariants"
	"github.com/zramfs/zramfs/internal/shm"
)

// A keeper comes after another in two ways. When one dies, the worker that
// serves starts the next; that one makes a worker of its own and then kills the
// one that started it, since it could not wait for the end of a process that
// is not its child. And after an upgrade a keeper becomes the new program, by
// exec. Either way it is given an estate.

// estate is what a keeper takes over: descriptors, by number, and who uses them.
type estate struct {
	Device     string          `json:"device"`
	Roles      []string        `json:"roles"` // of Files
	Files      []int           `json:"files"`
	Regions    map[string]int  `json:"regions,omitempty"`
	CPUs       []int           `json:"cpus"`
	Layout     fuseconn.Layout `json:"layout"`
	Generation int             `json:"generation"`
	Resend     bool            `json:"resend"`
	Orphan     bool            `json:"orphan"` // the keeper before is dead
	Workers    []heir          `json:"workers"`
	// The command that asked for an upgrade, and what it is to be told.
	Asker  int             `json:"asker,omitempty"`
	Result json.RawMessage `json:"result,omitempty"`
}

// heir is a worker that changes keepers.
type heir struct {
	PID     int  `json:"pid"`
	PIDFD   int  `json:"pidfd"`
	Control int  `json:"control"`
	Words   int  `json:"words,omitempty"` // 0: there are none
	Standby bool `json:"standby,omitempty"`
	Stage   int  `json:"stage"`
}

// adoptFD takes an inherited descriptor.
func adoptFD(fd int, name string) (*os.File, error) {
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, unix.FD_CLOEXEC); err != nil {
		return nil, fmt.Errorf("descriptor %d (%s) is missing: %w", fd, name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// inherit takes over from a keeper before.
func (k *keeper) inherit(e *estate) error {
	k.prepare()
	return k.takeUp(e)
}

// takeUp is inherit, without what concerns the process.
func (k *keeper) takeUp(e *estate) error {
	k.dev, k.generation, k.resend = e.Device, e.Generation, e.Resend
	k.held.cpus, k.held.layout = e.CPUs, e.Layout
	var files []*os.File
	for i, fd := range e.Files {
		f, err := adoptFD(fd, e.Roles[i])
		if err != nil {
			return err
		}
		files = append(files, f)
	}
	if err := k.held.take(e.Roles, files); err != nil {
		return err
	}
	for name, fd := range e.Regions {
		f, err := adoptFD(fd, name)
		if err != nil {
			return err
		}
		k.held.put(name, f)
	}
	k.source = shm.AdoptSource(k.held.source)
	page, err := shm.Adopt(roleHeader, k.held.header)
	if err == nil {
		k.header, err = openHeader(page)
	}
	if err == nil && e.Orphan && !k.header.crash().takeCare(int64(e.Workers[0].PID)) {
		return errors.New("the worker that started this keeper is dead, and another has taken its place")
	}
	if err == nil {
		err = k.lockHeld()
	}
	if err != nil {
		return err
	}
	for _, h := range e.Workers {
		if err := k.inheritWorker(h); err != nil {
			return err
		}
	}
	c := k.header.crash()
	invariants.CrashPoint("keeper.inherit")
	c.keeper.Store(int64(os.Getpid()))
	invariants.CrashPoint("keeper.inherited")
	if e.Orphan {
		c.keepers.Add(1)
		invariants.CrashPoint("keeper.counted")
		c.standby.Store(0) // it ends with its keeper
		invariants.CrashPoint("keeper.alone")
		k.say("the keeper of %s died: this one takes over", k.boot.Config.Mountpoint)
		k.move()
	} else {
		k.due.standby = time.Now().Add(standbyPause)
	}
	k.answerAsker(e)
	return nil
}

// inheritWorker takes over a worker.
func (k *keeper) inheritWorker(h heir) error {
	p := &process{pid: h.PID, stage: stage(h.Stage), over: make(chan struct{}), went: time.Now()}
	p.served = p.stage == serving
	f, err := adoptFD(h.Control, "control")
	if err == nil {
		p.control, err = adoptControl(f)
	}
	if err == nil {
		p.pidfd, err = adoptFD(h.PIDFD, "pidfd")
	}
	if err == nil && h.Words != 0 {
		p.words, err = adoptFD(h.Words, "words")
	}
	if err != nil {
		return fmt.Errorf("take over worker %d: %w", h.PID, err)
	}
	k.processes[p] = struct{}{}
	if h.Standby {
		k.standby = p
	} else {
		k.worker = p
	}
	go p.listen(k.events)
	return nil
}

// answerAsker tells the command that the upgrade is complete.
func (k *keeper) answerAsker(e *estate) {
	if e.Asker == 0 {
		return
	}
	f, err := adoptFD(e.Asker, "asker")
	if err != nil {
		return
	}
	c, err := adoptControl(f)
	if err != nil {
		return
	}
	_ = c.sendJSON(response{Result: e.Result}) // he may be gone
	c.close()
}

// move gets this keeper a worker of its own.
func (k *keeper) move() {
	if !k.resend {
		return // the one there is cannot be replaced
	}
	k.moving = true
	p, err := k.startWorker(nil)
	if err != nil {
		k.say("no worker of this keeper's own: %v", err)
		k.due.standby = time.Now().Add(maxPause)
		return
	}
	k.standby = p
}

// kill ends a worker that did no wrong.
func (k *keeper) kill(p *process, why string) {
	p.killed, p.killedAt = why, monotonic()
	p.signal(unix.SIGKILL)
}

// buried waits until the worker before is reaped: a keeper that becomes another
// program leaves nobody for that one to reap.
func (k *keeper) buried(p *process) error {
	reaped, err := k.await(drainTime, func() (bool, error) {
		_, there := k.processes[p]
		return !there, nil
	})
	if err == nil && !reaped {
		err = fmt.Errorf("worker %d, which was killed, has not ended within %s", p.pid, drainTime)
	}
	return err
}
