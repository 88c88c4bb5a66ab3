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
)

// become turns this process into the keeper of another program. It returns
// only if it cannot, and then everything is as before.
func (k *keeper) become(program *os.File, asker *os.File, result json.RawMessage) error {
	if k.pump != nil {
		return errRingKeeper
	}
	if k.leaving {
		return errors.New("the keeper goes on with the program before: it was just told to end")
	}
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
