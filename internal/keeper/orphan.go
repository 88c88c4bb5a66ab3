package keeper

import (
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zramfs/zramfs/internal/host"
	"github.com/zramfs/zramfs/internal/invariants"
)

// replaceKeeper starts a keeper when the one there was is gone, and gives the
// socket to it. Requests are served all the time. It returns when there is one.
func (w *worker) replaceKeeper() *control {
	if w.buffers == nil || w.isEnded() {
		// Nothing would take the mount away later, so it goes now.
		w.clearAway()
		os.Exit(int(CodeFailure))
	}
	if w.onRing() {
		w.endRing()
	}
	invariants.CrashPoint("crash.orphan")
	w.header.crash().caretaker.Store(int64(os.Getpid())) // who waits leaves it to this process while it lives
	invariants.CrashPoint("crash.orphan.care")
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
	var keeper int
	defer func() {
		if keeper == 0 { // it is tried again, for as long as the machine takes
			own.close()
		}
	}()
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
	keeper, err = syscall.ForkExec("/proc/self/exe", []string{"zramfs", "keeper", w.task.Config.Mountpoint}, &syscall.ProcAttr{
		Dir: "/", Env: os.Environ(), Files: fds, Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return nil, fmt.Errorf("start keeper: %w", err)
	}
	go func() { _, _ = unix.Wait4(keeper, nil, 0, nil) }() // it outlives us, or it is buried
	w.control.close()
	w.control = own
	return own, nil
}
