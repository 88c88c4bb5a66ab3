package blockdev

import (
	"bytes"
	"errors"
	"testing"
	"time"
)

// Who has only one request to wait with is told at once that there is no room,
// so that reads behind it are served. Who has more waits.
func TestLastDoesNotWait(t *testing.T) {
	cfg := testConfig(t)
	cfg.MemLimit, cfg.LimitWait = PageSize, time.Hour
	d := newDevice(t, 64*PageSize, cfg)
	if _, err := d.WriteAt(incompressible(), 0); err != nil {
		t.Fatal(err)
	}
	_, parked, err := d.Submit(&Request{Op: OpWrite, Off: PageSize, Data: incompressible(), Last: true})
	if parked || !errors.Is(err, ErrNoSpace) {
		t.Errorf("the last request: parked %v, %v, want ErrNoSpace", parked, err)
	}
	answer := make(chan error, 1)
	_, parked, err = d.Submit(&Request{Op: OpWrite, Off: PageSize, Data: incompressible(),
		Done: func(_ *Request, _ int, err error) { answer <- err }})
	if !parked {
		t.Fatalf("another request: %v, want it to wait", err)
	}
	if err := d.Discard(0, PageSize); err != nil {
		t.Fatal(err)
	}
	if err := <-answer; err != nil {
		t.Errorf("the request that waited for room: %v", err)
	}
}

// Nor does it wait for a backing device, which may take for ever: a part that is
// written or discarded is refused where the rest of its page is there. A read of it
// waits, and a write of the whole page needs nothing from there.
func TestLastDoesNotWaitForTheDevice(t *testing.T) {
	d, m := backedDevice(t, 8, 8)
	page := incompressible()
	write(t, d, page, 0)
	set(t, d, "writeback=page_index=0")
	stall := make(chan struct{})
	m.set(func() { m.stall = stall })
	for _, r := range []*Request{
		{Op: OpWrite, Off: 100, Data: []byte("a part")},
		{Op: OpDiscard, Off: 512, Len: PageSize},
	} {
		r.Last, r.Done = true, func(*Request, int, error) {}
		if n, parked, err := d.Submit(r); n != 0 || parked || !errors.Is(err, ErrNoSpace) {
			t.Errorf("operation %d: %d, parked %v, %v, want ErrNoSpace", r.Op, n, parked, err)
		}
	}
	got, answer := make([]byte, PageSize), make(chan error, 1)
	_, parked, err := d.Submit(&Request{Op: OpRead, Data: got, Last: true, Done: func(_ *Request, _ int, err error) { answer <- err }})
	if !parked {
		t.Errorf("a read: %v, want it to wait", err)
	}
	m.set(func() { m.stall = nil })
	close(stall)
	if err := <-answer; err != nil || !bytes.Equal(got, page) {
		t.Errorf("a read: %v", err)
	}
	page = stamped(t, 1)
	if _, parked, err := d.Submit(&Request{Op: OpWrite, Data: page, Last: true}); parked || err != nil {
		t.Errorf("a write of a whole page: parked %v, %v", parked, err)
	}
	wantPage(t, d, 0, page)
}
