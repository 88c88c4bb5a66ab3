package blockdev

import (
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
