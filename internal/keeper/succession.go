package keeper

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zramfs/zramfs/internal/fuseconn"
	"github.com/zramfs/zramfs/internal/host"
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
	c.keeper.Store(int64(os.Getpid()))
	if e.Orphan {
		c.keepers.Add(1)
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

// become turns this process into the keeper of another program. It returns
// only if it cannot, and then everything is as before.
func (k *keeper) become(program *os.File, asker *os.File, result json.RawMessage) error {
	ended := k.pause()
	err := errors.New("a worker ended just now")
	if len(ended) == 0 {
		err = k.exec(program, asker, result)
	}
	for p := range k.processes {
		if p.paused {
			p.paused = false
			go p.listen(k.events)
		}
	}
	for _, e := range ended {
		k.handle(e)
	}
	return fmt.Errorf("the keeper goes on with the program before: %w", err)
}

// pause stops everybody who listens to workers, when what they have heard is
// dealt with. It gives the ends of workers, which are not.
func (k *keeper) pause() (ended []event) {
	listening := 0
	for p := range k.processes {
		_ = p.control.conn.SetReadDeadline(time.Now()) // then it sees the process's end
		listening++
	}
	for ; listening > 0; listening-- {
		e := <-k.events
		for !e.paused && !e.gone {
			k.handle(e)
			e = <-k.events
		}
		if e.gone {
			ended = append(ended, e)
		} else {
			e.p.paused = true
		}
	}
	for p := range k.processes {
		_ = p.control.conn.SetReadDeadline(time.Time{})
	}
	return ended
}

// exec hands everything to itself.
func (k *keeper) exec(program *os.File, asker *os.File, result json.RawMessage) error {
	e := estate{
		Device: k.dev, CPUs: k.held.cpus, Layout: k.held.layout, Generation: k.generation, Resend: k.resend,
		Result: result, Regions: make(map[string]int),
	}
	var kept []int
	var err error
	keep := func(f *os.File) int { // f is closed by exec; its twin is not
		fd, dupErr := unix.FcntlInt(f.Fd(), unix.F_DUPFD, 0)
		if dupErr != nil {
			err = dupErr
			return -1
		}
		kept = append(kept, fd)
		return fd
	}
	defer func() {
		for _, fd := range kept {
			unix.Close(fd)
		}
	}()
	var files []*os.File
	e.Roles, files = k.held.base()
	for _, f := range files {
		e.Files = append(e.Files, keep(f))
	}
	for name, f := range k.held.regions {
		e.Regions[name] = keep(f)
	}
	for p := range k.processes {
		f, fileErr := p.control.conn.File()
		if fileErr != nil {
			return fileErr
		}
		h := heir{PID: p.pid, PIDFD: keep(p.pidfd), Control: keep(f), Standby: p != k.worker, Stage: int(p.stage)}
		f.Close()
		if p.words != nil {
			h.Words = keep(p.words)
		}
		e.Workers = append(e.Workers, h)
	}
	e.Asker = keep(asker)
	if err != nil {
		return err
	}
	b := k.boot
	b.Estate = &e
	if err := b.save(); err != nil {
		return err
	}
	// SIGTERM must not end a program that does not listen for it yet.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	block, before := unix.Sigset_t{}, unix.Sigset_t{}
	block.Val[0] = 1<<(unix.SIGTERM-1) | 1<<(unix.SIGINT-1)
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, &block, &before); err != nil {
		return err
	}
	defer func() { _ = unix.PthreadSigmask(unix.SIG_SETMASK, &before, nil) }()
	if _, err := unix.FcntlInt(bootFD, unix.F_SETFD, 0); err != nil {
		return err
	}
	defer unix.CloseOnExec(bootFD)
	args := []string{"zramfs", "keeper", k.boot.Config.Mountpoint}
	return syscall.Exec(fmt.Sprintf("/proc/self/fd/%d", program.Fd()), args, os.Environ())
}

// replaceKeeper starts a keeper when the one there was is gone, and gives the
// socket to it. Requests are served all the time. It returns when there is one.
func (w *worker) replaceKeeper() *control {
	if w.buffers == nil || w.isEnded() {
		// Nothing would take the mount away later, so it goes now.
		w.clearAway()
		os.Exit(int(CodeFailure))
	}
	w.header.crash().caretaker.Store(int64(os.Getpid())) // who waits leaves it to this process while it lives
	w.keepers = min(w.keepers+1, maxFailures)
	if time.Since(w.keeper) >= quickDeath {
		w.keepers = 0
	}
	if w.keepers > 1 {
		time.Sleep(min(firstPause<<(w.keepers-2), maxPause))
	}
	for pause := firstPause; ; pause = min(2*pause, maxPause) {
		w.keeper = time.Now()
		if w.held.over() {
			select {} // unmounted: this process ends when it has seen that
		}
		c, err := w.startKeeper()
		if err == nil {
			if m := w.asking.again(); m != nil {
				_ = w.tell(*m) // or the next one is asked
			}
			return c
		}
		time.Sleep(pause)
	}
}

func (w *worker) isEnded() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.ended
}

// startKeeper starts a keeper and gives it copies of everything.
func (w *worker) startKeeper() (*control, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	own, theirs, err := controlPair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	self, err := host.Watch(os.Getpid())
	if err != nil {
		return nil, err
	}
	defer self.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close()

	// Their numbers there are their places in the list; boot comes first.
	files := []*os.File{null, null, null, nil}
	give := func(f *os.File) int {
		files = append(files, f)
		return len(files) - 1
	}
	e := estate{
		Device: w.task.Device, CPUs: w.task.CPUs, Layout: w.task.Layout, Generation: w.order.Generation,
		Resend: w.order.Resume || w.facts.resend.Load(), Orphan: true, Regions: make(map[string]int),
		Workers: []heir{{PID: os.Getpid(), PIDFD: give(self), Control: give(theirs), Stage: int(serving)}},
	}
	roles, base := w.held.base()
	e.Roles = roles
	for _, f := range base {
		e.Files = append(e.Files, give(f))
	}
	for name, r := range w.regions {
		e.Regions[name] = give(r.File())
	}
	for name, f := range w.backings {
		e.Regions[name] = give(f)
	}
	b := boot{
		Config: w.task.Config, Armed: true, Notes: w.task.Notes, InCgroup: w.task.InCgroup, Locked: w.task.Locked,
		Flusher: w.task.Flusher, OOMScore: w.task.OOMScore, Estate: &e,
	}
	b.Config.Foreground = false // whoever watched it there has seen it end
	if err := b.create(); err != nil {
		return nil, err
	}
	defer b.file.Close()
	files[bootFD] = b.file
	fds := make([]uintptr, len(files))
	for i, f := range files {
		fds[i] = f.Fd()
	}
	pid, err := syscall.ForkExec("/proc/self/exe", []string{"zramfs", "keeper", w.task.Config.Mountpoint}, &syscall.ProcAttr{
		Dir: "/", Env: os.Environ(), Files: fds, Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		own.close()
		return nil, fmt.Errorf("start keeper: %w", err)
	}
	go func() { _, _ = unix.Wait4(pid, nil, 0, nil) }() // it outlives us, or it is buried
	w.control.close()
	w.control = own
	return own, nil
}
