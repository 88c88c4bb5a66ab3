package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/zramfs/zramfs/internal/swapload"
)

// runLimited runs this program again, -procs times, inside a memory cgroup of
// its own, and removes the cgroup however the runs end.
func runLimited(o *options) error {
	group, err := swapload.NewMemcg(fmt.Sprintf("zramfs-swapper-%d", os.Getpid()), o.limit)
	if errors.Is(err, swapload.ErrNoMemcg) {
		return fmt.Errorf("%w (be root; in a container, mount the memory cgroup read-write)", err)
	} else if err != nil {
		return err
	}
	defer group.Remove()
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP)

	// The death signal follows the thread that started the child.
	runtime.LockOSThread()
	children := make([]*exec.Cmd, o.procs)
	reports := make([]bytes.Buffer, o.procs)
	ended := make(chan *exec.Cmd, o.procs)
	turns, err := newTurns(o.procs)
	if err != nil {
		return err
	}
	for i := range children {
		child := exec.Command("/proc/self/exe", os.Args[1:]...)
		child.Env = append(os.Environ(), joinEnv+"="+group.Dir())
		child.Stdout, child.Stderr = os.Stdout, os.Stderr
		if o.procs > 1 {
			// The last of a flag counts.
			child.Args = append(child.Args, "-json", "-size", strconv.FormatInt(o.size/int64(o.procs), 10),
				"-touches", strconv.Itoa(o.touches/o.procs), "-seed", strconv.FormatUint(o.seed+uint64(i), 10))
			child.Stdout = &reports[i]
			child.ExtraFiles = []*os.File{turns.arrive, turns.wait[i]}
		}
		child.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
		if err := child.Start(); err != nil {
			kill(children[:i])
			return err
		}
		children[i] = child
		go func() {
			_ = child.Wait() // its state tells
			ended <- child
		}()
	}
	turns.run()
	go func() {
		<-signals
		kill(children)
	}()
	for range children {
		if code := (<-ended).ProcessState.ExitCode(); code < 0 || code > exitWrong { // or its death; the others would wait for it for ever
			kill(children)
		}
	}
	code := 0
	for _, child := range children {
		c := child.ProcessState.ExitCode()
		if c < 0 {
			why := "was " + child.ProcessState.String()
			if group.OOMKills() > 0 {
				why = "was killed because no memory and no swap was left (see /proc/swaps)"
			}
			fmt.Fprintln(os.Stderr, "swapper: the run", why)
			c = exitKilled
		}
		code = max(code, c)
	}
	if err := group.Remove(); err != nil {
		fmt.Fprintln(os.Stderr, "swapper:", err)
	}
	if o.procs > 1 && code <= exitWrong {
		if err := showAll(o, reports); err != nil {
			return err
		}
	}
	os.Exit(code)
	return nil
}

func kill(children []*exec.Cmd) {
	for _, c := range children {
		_ = c.Process.Kill() // one that has ended needs none
	}
}

// showAll prints what the processes report, as one.
func showAll(o *options, reports []bytes.Buffer) error {
	var all swapload.Report
	for i := range reports {
		var r swapload.Report
		if err := json.Unmarshal(reports[i].Bytes(), &r); err != nil {
			return fmt.Errorf("the report of process %d: %w", i, err)
		}
		if i == 0 {
			all = r
			continue
		}
		all.Merge(&r)
	}
	return show(o, &all)
}
