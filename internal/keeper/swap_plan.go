package keeper

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// opSwap tells a keeper about swap on its mount.
const opSwap = "swap"

// What it is told.
const (
	swapKeep = "keep" // enable these segments, as the room allows, and watch
	swapHold = "hold" // enable none for a while: a swapoff is at work
	swapFree = "free" // go on after a hold
	swapDrop = "drop" // forget the segments: they are swap no more
)

// holdTime is how long a hold lasts that is not renewed: a swapoff that was
// killed leaves swap as it is.
const holdTime = 10 * time.Second

// swapOrder is what opSwap is asked with.
type swapOrder struct {
	Do       string `json:"do"`
	Loops    []int  `json:"loops,omitempty"`   // numbers of the loop devices, by segment
	Segment  int64  `json:"segment,omitempty"` // pages of each
	Cap      int64  `json:"cap,omitempty"`     // pages that the store may take
	Priority int    `json:"priority"`
	Watchdog bool   `json:"watchdog"`
}

// swapState is the answer.
type swapState struct {
	Total   int  `json:"total"`
	Enabled int  `json:"enabled"`
	Armed   bool `json:"armed"`
}

// askSwap tells the keeper of the mount on point.
func askSwap(point string, o swapOrder) (swapState, error) {
	var s swapState
	req, err := newRequest(opSwap, o)
	if err != nil {
		return s, err
	}
	for try := 0; ; try++ {
		r, err := ask(point, req, nil, nil)
		if (ExitCode(err) == CodeNotMounted || errors.Is(err, io.EOF)) && try < askTries {
			time.Sleep(askPause) // it was the keeper of the mount that had this one's number before
			continue
		}
		if err == nil {
			err = r.into(&s)
		}
		return s, err
	}
}

// answerSwap is opSwap at the keeper.
func (k *keeper) answerSwap(q *question) (any, error) {
	var o swapOrder
	if err := json.Unmarshal(q.Args, &o); err != nil {
		return nil, &Error{CodeUsage, "swap: the question cannot be read", err}
	}
	if k.header.region == nil {
		return nil, Errorf(CodeLacking, "swap in segments needs transport percpu")
	}
	page := openRoom(k.header.room())
	err := k.do(func() error {
		if k.finished || k.held.over() {
			return Errorf(CodeNotMounted, "%s is mounted no more", k.boot.Config.Mountpoint)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	switch o.Do {
	case swapKeep:
		if err = k.do(func() error { return k.keepSwap(page, &o) }); err == nil {
			err = awaitSwap(q, page)
		}
	case swapHold:
		page.lease.Store(monotonic() + int64(holdTime))
	case swapFree:
		page.lease.Store(0)
	case swapDrop:
		err = k.do(func() error { k.dropSwap(page); return nil })
	default:
		err = Errorf(CodeUsage, "swap: %q is nothing that this keeper knows", o.Do)
	}
	if err != nil {
		return nil, err
	}
	return swapState{int(page.total.Load()), int(page.enabled.Load()), page.armed.Load() == 1}, nil
}

// keepSwap takes a plan and starts the threads. A plan that is there already
// goes on, with the new figures.
func (k *keeper) keepSwap(page *roomPage, o *swapOrder) error {
	if len(o.Loops) == 0 || len(o.Loops) > maxSegments || o.Segment <= 0 || o.Cap <= 0 {
		return Errorf(CodeUsage, "swap: %d segments of %d pages for a store of %d", len(o.Loops), o.Segment, o.Cap)
	}
	var loops []int
	for i := range page.total.Load() {
		loops = append(loops, int(page.loops[i].Load()))
	}
	same := slices.Equal(loops, o.Loops) && page.segment.Load() == o.Segment && page.cap.Load() == o.Cap &&
		int(page.priority.Load()) == o.Priority && page.guarded.Load() == flag(o.Watchdog)
	if !same {
		k.dropSwap(page)
		page.segment.Store(o.Segment)
		page.cap.Store(o.Cap)
		page.priority.Store(int64(o.Priority))
		page.guarded.Store(flag(o.Watchdog))
		for i, n := range o.Loops {
			page.loops[i].Store(int64(n))
		}
		page.total.Store(int64(len(o.Loops)))
	}
	page.lease.Store(0)
	page.halted.Store(0)
	page.errno.Store(0)
	page.settled.Store(0)
	return k.watchSwap()
}

func flag(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// watchSwap starts the threads if there is a plan and they do not run: after
// keepSwap, and in a keeper that comes after another.
func (k *keeper) watchSwap() error {
	if k.header.region == nil || k.swap != nil {
		return nil
	}
	page := openRoom(k.header.room())
	if page.total.Load() == 0 {
		return nil
	}
	words := fmt.Appendf(nil, "<2>zramfs[%d]: %s: writes wait for room and the machine has no memory: "+
		"asked the kernel to kill a process (sysrq f)\n", os.Getpid(), k.boot.Config.Mountpoint)
	t, err := startSwapThreads(page, sysrqTrigger, k.log, words)
	if err == nil {
		k.swap = t
	}
	return err
}

// dropSwap ends the threads and forgets the plan.
func (k *keeper) dropSwap(page *roomPage) {
	if k.swap != nil {
		k.swap.end()
		k.swap = nil
	}
	page.total.Store(0)
	page.wanted.Store(0)
	page.populated.Store(0)
	page.enabled.Store(0)
	page.free.Store(0)
	page.wasOn.Store(0)
	page.halted.Store(0)
	page.hurry.Store(0)
}

// settleTime is how long the first segments may take.
const settleTime = time.Minute

// awaitSwap waits until all is enabled that is to be enabled now.
func awaitSwap(q *question, page *roomPage) error {
	for deadline := time.Now().Add(settleTime); ; time.Sleep(lookTime / 5) {
		switch errno := unix.Errno(page.errno.Load()); {
		case errno == unix.EPERM: // for good, also after the first
			return &Error{CodeLacking, fmt.Sprintf("swapon of segment %d: the kernel takes no more swap devices (about 30 in all): "+
				"turn off some that are not needed (swapoff)", page.enabled.Load()), errno}
		case errno != 0 && page.enabled.Load() == 0:
			return fmt.Errorf("swapon of the first segment: %w", errno)
		}
		if page.settled.Load() == 1 {
			return nil
		}
		if q.ctx.Err() != nil {
			return errors.New("nobody waits for the answer")
		}
		if time.Now().After(deadline) {
			return Errorf(CodeFailure, "the first segment could not be enabled within %s: "+
				"zramfs status tells whether the worker serves", settleTime)
		}
	}
}
