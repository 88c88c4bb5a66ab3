package blockdev

import (
	"sync/atomic"
	"testing"
)

// A stream whose frames are used up compresses itself, for a while also when its
// compressor has caught up, and then stages again.
func TestWriterHelps(t *testing.T) {
	var hold atomic.Bool
	at, letGo := make(chan struct{}), make(chan struct{})
	cfg := testConfig(t)
	cfg.Streams, cfg.WriteBehind = 1, 4
	cfg.faults = &faults{compress: func() error {
		if hold.Load() {
			at <- struct{}{}
			<-letGo
		}
		return nil
	}}
	d := newDevice(t, 256*PageSize, cfg)
	slot := int64(0)
	put := func() {
		write(t, d, stamped(t, uint64(slot)), slot*PageSize)
		slot++
	}
	staged := func() int64 { return d.sums().staged }

	hold.Store(true)
	put()
	<-at // the compressor has the first page, and keeps it
	for range 3 {
		put()
	}
	hold.Store(false) // for the writer, who is next
	put()
	if n := staged(); n != 4 {
		t.Errorf("%d pages staged in 4 frames", n)
	}
	letGo <- struct{}{}
	drain(t, d)
	for range helpFor * 4 {
		if put(); staged() != 0 {
			t.Fatalf("page %d is staged, though the frames were used up just now", slot)
		}
	}
	hold.Store(true)
	put() // comes back at once: another compresses it
	<-at
	if n := staged(); n != 1 {
		t.Errorf("%d pages staged, want 1", n)
	}
	hold.Store(false)
	letGo <- struct{}{}
	drain(t, d)
	for i := range slot {
		wantPage(t, d, uint64(i), stamped(t, uint64(i)))
	}
}

// Many pages wake the compressor before its time, each stream its own; all of them
// are compressed in the end.
func TestCompressorsKeepApart(t *testing.T) {
	cfg := testConfig(t)
	cfg.Streams, cfg.WriteBehind = 3, 24
	d := newDevice(t, 96*PageSize, cfg)
	for slot := range int64(96) {
		if _, err := d.Do(&Request{Op: OpWrite, Stream: int(slot % 2), Data: stamped(t, uint64(slot)), Off: slot * PageSize}); err != nil {
			t.Fatal(err)
		}
	}
	drain(t, d)
	for slot := range 96 {
		wantPage(t, d, uint64(slot), stamped(t, uint64(slot)))
	}
}
