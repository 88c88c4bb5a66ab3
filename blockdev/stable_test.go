package blockdev

import (
	"bytes"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/zramfs/zramfs/stable"
)

// held is a device whose compressor stops at each page until it is let go.
type held struct {
	*Device
	at    chan struct{} // a compression has begun
	letGo chan struct{}
}

// newHeld makes a device with write-behind and one stream under a policy.
func newHeld(t *testing.T, p stable.Policy) held {
	h := held{at: make(chan struct{}), letGo: make(chan struct{})}
	cfg := testConfig(t)
	cfg.Streams, cfg.WriteBehind, cfg.Policy = 1, 4, p
	cfg.faults = &faults{compress: func() error {
		h.at <- struct{}{}
		<-h.letGo
		return nil
	}}
	h.Device = newDevice(t, 16*PageSize, cfg)
	return h
}

func stat(t *testing.T, d *Device, name string) string {
	t.Helper()
	for line := range strings.Lines(show(t, d, "stable_stat")) {
		if v, ok := strings.CutPrefix(line, name+" "); ok {
			return strings.TrimSpace(v)
		}
	}
	t.Fatalf("stable_stat has no %s", name)
	return ""
}

// A write that meets its page under compression is a copy: it is done at once,
// and the result of the compression is dropped.
func TestSnapshotCopies(t *testing.T) {
	d := newHeld(t, stable.Snapshot)
	a, b := stamped(t, 1), stamped(t, 2)
	write(t, d.Device, a, 0)
	<-d.at // a is under compression
	write(t, d.Device, b, 0)
	wantPage(t, d.Device, 0, b)
	d.letGo <- struct{}{} // a's result is dropped
	<-d.at                // b follows
	d.letGo <- struct{}{}
	drain(t, d.Device)
	wantPage(t, d.Device, 0, b)
	if got := stat(t, d.Device, "snapshots"); got != "1" {
		t.Errorf("snapshots %s, want 1", got)
	}
	if got := stat(t, d.Device, "dropped"); got != "1" {
		t.Errorf("dropped %s, want 1", got)
	}
}

// Under the policy wait the write is parked until the compressor is done.
func TestWaitWaits(t *testing.T) {
	d := newHeld(t, stable.Wait)
	a, b := stamped(t, 1), stamped(t, 2)
	write(t, d.Device, a, 0)
	<-d.at
	done := make(chan error, 1)
	r := &Request{Op: OpWrite, Data: b, Done: func(_ *Request, n int, err error) { done <- err }}
	if _, parked, err := d.Submit(r); !parked {
		t.Fatalf("the write was answered (%v) while its page was under compression", err)
	}
	wantPage(t, d.Device, 0, a) // nothing has changed yet, and a read does not wait
	select {
	case err := <-done:
		t.Fatalf("the parked write was answered (%v) before the compressor was done", err)
	default:
	}
	d.letGo <- struct{}{}
	if err := <-done; err != nil {
		t.Fatalf("the parked write failed: %v", err)
	}
	wantPage(t, d.Device, 0, b)
	<-d.at
	d.letGo <- struct{}{}
	drain(t, d.Device)
	wantPage(t, d.Device, 0, b)
	if got := stat(t, d.Device, "waits"); got != "1" {
		t.Errorf("waits %s, want 1", got)
	}
}

// What a write has built is given up before it is parked: then it is somebody
// else's, who may have answered it already.
func TestParkedWriteKeepsNothing(t *testing.T) {
	d := newHeld(t, stable.Wait)
	set(t, d.Device, "mem_limit=1M")
	k := d.disk.Load()
	var given, late atomic.Int64
	var submitting atomic.Bool
	k.account.freed = func() {
		if !submitting.Load() {
			return
		}
		given.Add(1)
		if k.table.locks[0].TryLock() {
			k.table.locks[0].Unlock()
			late.Add(1)
		}
	}
	write(t, d.Device, stamped(t, 1), 0)
	<-d.at
	k.account.waiters.Add(1) // or nobody is told what is given up
	done := make(chan error, 1)
	b := stamped(t, 2)
	r := &Request{Op: OpWrite, Data: b, Done: func(_ *Request, n int, err error) { done <- err }}
	submitting.Store(true)
	if _, parked, err := d.Submit(r); !parked {
		t.Errorf("the write was answered (%v) while its page was under compression", err)
	}
	submitting.Store(false)
	k.account.waiters.Add(-1)
	if given.Load() != 1 || late.Load() != 0 {
		t.Errorf("the frame of a parked write is given up %d times, %d after it was parked", given.Load(), late.Load())
	}
	d.letGo <- struct{}{}
	if err := <-done; err != nil {
		t.Errorf("the parked write failed: %v", err)
	}
	<-d.at
	d.letGo <- struct{}{}
	drain(t, d.Device)
	wantPage(t, d.Device, 0, b)
}

// Under the policy refuse the write is an error and changes nothing.
func TestRefuseRefuses(t *testing.T) {
	d := newHeld(t, stable.Refuse)
	a, b := stamped(t, 1), stamped(t, 2)
	write(t, d.Device, a, 0)
	<-d.at
	if _, err := d.WriteAt(b, 0); !errors.Is(err, ErrRefused) {
		t.Fatalf("write to a page under compression: %v, want ErrRefused", err)
	}
	if _, err := d.WriteAt(b[:512], 512); !errors.Is(err, ErrRefused) {
		t.Fatalf("write to a part of a page under compression: %v, want ErrRefused", err)
	}
	wantPage(t, d.Device, 0, a)
	d.letGo <- struct{}{}
	drain(t, d.Device)
	wantPage(t, d.Device, 0, a)
	if got := stat(t, d.Device, "refusals"); got != "2" {
		t.Errorf("refusals %s, want 2", got)
	}
}

// A page that is overwritten before anyone compresses it costs a copy.
func TestOverwrittenWhileStaged(t *testing.T) {
	d := newHeld(t, stable.Snapshot)
	write(t, d.Device, stamped(t, 1), 0)
	<-d.at // the compressor is busy with slot 0
	write(t, d.Device, stamped(t, 2), PageSize)
	last := stamped(t, 3)
	write(t, d.Device, last, PageSize)
	if got := stat(t, d.Device, "overwritten"); got != "1" {
		t.Errorf("overwritten %s, want 1", got)
	}
	d.letGo <- struct{}{}
	<-d.at
	d.letGo <- struct{}{}
	drain(t, d.Device)
	wantPage(t, d.Device, 1, last)
}

// A discard changes no byte of a page, so it meets no policy.
func TestDiscardUnderCompression(t *testing.T) {
	for _, p := range []stable.Policy{stable.Snapshot, stable.Wait, stable.Refuse} {
		t.Run(p.String(), func(t *testing.T) {
			d := newHeld(t, p)
			write(t, d.Device, stamped(t, 1), 0)
			<-d.at
			if err := d.Discard(0, PageSize); err != nil {
				t.Fatal(err)
			}
			wantPage(t, d.Device, 0, make([]byte, PageSize))
			d.letGo <- struct{}{}
			drain(t, d.Device)
			wantPage(t, d.Device, 0, make([]byte, PageSize))
		})
	}
}

// drain waits until no frame is in use.
func drain(t *testing.T, d *Device) {
	t.Helper()
	k := d.disk.Load()
	for deadline := time.Now().Add(2 * time.Minute); k.frames.InUse() != 0; {
		if time.Now().After(deadline) {
			t.Fatalf("%d frames are still in use", k.frames.InUse())
		}
		time.Sleep(time.Millisecond)
	}
}

// Eight writers own 512 bytes each of one page; whatever the scheduler does,
// none of their writes is lost.
func TestEightWritersOfOnePage(t *testing.T) {
	for _, p := range []stable.Policy{stable.Snapshot, stable.Wait, stable.Refuse} {
		for _, frames := range []int{0, 4} {
			cfg := testConfig(t)
			cfg.Policy, cfg.WriteBehind = p, frames
			d := newDevice(t, PageSize, cfg)
			const writers, part, rounds = 8, PageSize / 8, 500
			var wg sync.WaitGroup
			for w := range writers {
				wg.Go(func() {
					own := make([]byte, part)
					for round := range rounds {
						for i := range own {
							own[i] = byte(w*31 + round*7 + i%13)
						}
						for {
							_, err := d.Do(&Request{Op: OpWrite, Data: own, Off: int64(w * part), Stream: w % 2})
							if errors.Is(err, ErrRefused) {
								continue
							}
							if err != nil {
								t.Error(err)
							}
							break
						}
						got := make([]byte, part)
						if _, err := d.Do(&Request{Op: OpRead, Data: got, Off: int64(w * part), Stream: w % 2}); err != nil {
							t.Error(err)
						}
						if !bytes.Equal(got, own) {
							t.Errorf("policy %v, frames %d, writer %d, round %d: %s", p, frames, w, round, firstDifference(got, own))
							return
						}
					}
				})
			}
			wg.Wait()
		}
	}
}
