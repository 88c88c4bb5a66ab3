package keeper

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zramfs/zramfs/internal/invariants"
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
	switch o.Do { // these wait for a swapon(2) that is under way, which may need another worker
	case swapKeep:
		req.most = serveTime + settleTime + patience
	case swapDrop:
		req.most = serveTime + patience
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
	err := k.do(k.stillMounted)
	if err != nil {
		return nil, err
	}
	switch o.Do {
	case swapKeep:
		if err = k.keepSwap(page, &o); err == nil {
			err = awaitSwap(q, page)
		}
	case swapHold:
		put("room.hold", &page.lease, monotonic()+int64(holdTime))
	case swapFree:
		put("room.free", &page.lease, 0)
	case swapDrop:
		err = k.withoutSwap(func() error { page.dropPlan(); return nil })
	default:
		err = Errorf(CodeUsage, "swap: %q is nothing that this keeper knows", o.Do)
	}
	if err != nil {
		return nil, err
	}
	return swapState{int(page.total.Load()), int(page.enabled.Load()), page.armed.Load() == 1}, nil
}

// stillMounted is an error once the mount has ended.
func (k *keeper) stillMounted() error {
	if k.finished || k.held.over() {
		return Errorf(CodeNotMounted, "%s is mounted no more", k.boot.Config.Mountpoint)
	}
	return nil
}

// withoutSwap ends the threads, and runs f on the keeper's goroutine at a moment
// when there are none. It waits for a swapon(2) that is under way. That reads
// the disk, and may need another worker for it, so whoever waits is not the
// keeper's goroutine.
func (k *keeper) withoutSwap(f func() error) error {
	for {
		var t *swapThreads
		err := k.do(func() error {
			if err := k.stillMounted(); err != nil {
				return err
			}
			if t = k.swap; t == nil {
				return f()
			}
			t.stop.Store(true)
			return nil
		})
		if err != nil || t == nil {
			return err
		}
		t.ended.Wait()
		err = k.do(func() error {
			if k.swap == t { // else another question was faster
				t.close()
				k.swap = nil
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
}

// keepSwap takes a plan and starts the threads. A plan that is there already
// goes on, with the new figures.
func (k *keeper) keepSwap(page *roomPage, o *swapOrder) error {
	if len(o.Loops) == 0 || len(o.Loops) > maxSegments || o.Segment <= 0 || o.Cap <= 0 {
		return Errorf(CodeUsage, "swap: %d segments of %d pages for a store of %d", len(o.Loops), o.Segment, o.Cap)
	}
	goesOn := false
	err := k.do(func() error {
		if err := k.stillMounted(); err != nil {
			return err
		}
		ending := k.swap != nil && k.swap.stop.Load()
		if goesOn = page.has(o) && !ending; goesOn {
			return k.goOn(page)
		}
		return nil
	})
	if err != nil || goesOn {
		return err
	}
	return k.withoutSwap(func() error {
		page.dropPlan()
		page.plan(o)
		return k.goOn(page)
	})
}

// goOn has segments enabled again, whatever stood against it.
func (k *keeper) goOn(page *roomPage) error {
	page.clear()
	return k.watchSwap()
}

// clear forgets what stands against enabling segments.
func (p *roomPage) clear() {
	put("room.clear", &p.lease, 0)
	put("room.clear", &p.halted, 0)
	put("room.clear", &p.errno, 0)
	put("room.clear", &p.settled, 0)
	invariants.CrashPoint("room.cleared")
}

// has says whether this is the plan.
func (p *roomPage) has(o *swapOrder) bool {
	var loops []int
	for i := range p.total.Load() {
		loops = append(loops, int(p.loops[i].Load()))
	}
	return slices.Equal(loops, o.Loops) && p.segment.Load() == o.Segment && p.cap.Load() == o.Cap &&
		int(p.priority.Load()) == o.Priority && p.guarded.Load() == flag(o.Watchdog)
}

// plan writes a plan where there is none.
func (p *roomPage) plan(o *swapOrder) {
	put("room.plan", &p.segment, o.Segment)
	put("room.plan", &p.cap, o.Cap)
	put("room.plan", &p.priority, int64(o.Priority))
	put("room.plan", &p.guarded, flag(o.Watchdog))
	for i, n := range o.Loops {
		put("room.plan.loop", &p.loops[i], int64(n))
	}
	put("room.plan.total", &p.total, int64(len(o.Loops)))
	invariants.CrashPoint("room.planned")
}

// dropPlan forgets the plan; no threads run.
func (p *roomPage) dropPlan() {
	for _, word := range []*atomic.Int64{&p.total, &p.wanted, &p.populated, &p.enabled, &p.free, &p.wasOn, &p.halted, &p.hurry} {
		put("room.drop", word, 0)
	}
	invariants.CrashPoint("room.dropped")
}

func flag(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// watchSwap starts the threads if there is a plan and they do not run: for
// keepSwap, and in a keeper that comes after another.
func (k *keeper) watchSwap() error {
	if k.header.region == nil || k.swap != nil {
		return nil
	}
	page := openRoom(k.header.room())
	if page.total.Load() == 0 {
		return nil
	}
	words := lastWords{}
	for why, text := range map[alarm]string{
		noRoom:   "writes wait for room and the machine has no memory",
		noWorker: "the worker is dead and the machine has no memory for the next",
		noWord:   "the worker does not answer and the machine has no memory",
	} {
		words[why] = fmt.Appendf(nil, "<2>zramfs[%d]: %s: %s: asked the kernel to kill a process (sysrq f)\n",
			os.Getpid(), k.boot.Config.Mountpoint, text)
	}
	t, err := startSwapThreads(page, k.header.crash(), sysrqTrigger, k.log, words)
	if err == nil {
		k.swap = t
	}
	return err
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
