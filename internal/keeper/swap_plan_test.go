package keeper

import (
	"encoding/json"
	"testing"
	"time"
)

// asked answers a question about swap beside the keeper's goroutine.
func asked(t *testing.T, k *keeper, o swapOrder) <-chan error {
	t.Helper()
	args, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	result := make(chan error, 1)
	go func() {
		_, err := k.answerSwap(&question{request: request{Op: opSwap, Args: args}, ctx: t.Context()})
		result <- err
	}()
	return result
}

// hangTime is long enough for anything that does not hang.
const hangTime = time.Minute

// waitFor is the result of a question that does not hang.
func waitFor(t *testing.T, what string, result <-chan error) error {
	t.Helper()
	select {
	case err := <-result:
		return err
	case <-time.After(hangTime):
		t.Fatalf("%s hangs", what)
		return nil
	}
}

// TestSwapDropWaitsBeside: while swap is dropped in the middle of a swapon(2)
// that waits for the disk, the keeper replaces the worker that the disk waits
// for. No thread is started before that swapon has come back.
func TestSwapDropWaitsBeside(t *testing.T) {
	k := idleKeeper(t)
	page := openRoom(k.header.room())
	plan := swapOrder{Loops: []int{0}, Segment: 1000, Cap: 2000}
	page.plan(&plan)
	threads := &swapThreads{page: page}
	answered := make(chan struct{})
	threads.ended.Go(func() { <-answered }) // as a read of the swap header is by the next worker
	k.swap = threads
	worker, next := sleeper(t, k, serving), sleeper(t, k, prepared)
	k.worker, k.standby = worker, next
	over := make(chan error, 1)
	go func() { over <- k.loop(func() bool { return false }) }()

	dropped := asked(t, k, swapOrder{Do: swapDrop})
	for end := time.Now().Add(hangTime); !threads.stop.Load(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the threads are not told to end")
		}
	}
	gone := make(chan error, 1)
	go func() {
		k.events <- event{p: worker, gone: true}
		gone <- k.do(func() error {
			if k.worker != next {
				t.Error("the standby is not the worker")
			}
			if k.swap != threads {
				t.Error("the threads were forgotten before they had ended")
			}
			return k.watchSwap() // starts none
		})
	}()
	if err := waitFor(t, "the death of a worker", gone); err != nil {
		t.Error(err)
	}
	close(answered)
	if err := waitFor(t, "dropping swap", dropped); err != nil {
		t.Error(err)
	}
	err := k.do(func() error {
		if k.swap != nil || page.total.Load() != 0 {
			t.Errorf("threads %v, %d segments", k.swap, page.total.Load())
		}
		k.finish(nil)
		return nil
	})
	if err == nil {
		err = waitFor(t, "the keeper", over)
	}
	if err != nil {
		t.Error(err)
	}
}
