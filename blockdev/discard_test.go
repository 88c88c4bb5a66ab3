package blockdev

import (
	"bytes"
	"testing"

	"github.com/zramfs/zramfs/stable"
)

// secret is a page, compressible or not, that carries the text anywhere.
func secret(tb testing.TB, text []byte, huge bool) []byte {
	p := bytes.Clone(stamped(tb, 7))
	if huge {
		p = incompressible()
	}
	copy(p[1000:], text)
	return p
}

// wantGone looks for a text in all of a disk's memory.
func wantGone(t *testing.T, d *Device, text []byte) {
	t.Helper()
	k := d.disk.Load()
	if err := k.region.Data(func(off, n int64) bool {
		if i := bytes.Index(k.region.Bytes(off, n), text); i >= 0 {
			t.Errorf("%q is still at byte %d of %+v", text, off+int64(i), k.layout)
		}
		return true
	}); err != nil {
		t.Fatal(err)
	}
}

// What was discarded is nowhere in shared memory any more: not as an object,
// a raw page, a frame, a pattern, nor as a copy that compaction left.
func TestDiscardLeavesNothing(t *testing.T) {
	text := []byte("tr0ub4dor&3:Xk9vQz2LmTf8Rb")
	for _, op := range []Op{OpDiscard, OpZero} {
		for _, frames := range []int{0, 8} {
			cfg := testConfig(t)
			cfg.WriteBehind = frames
			d := newDevice(t, 256*PageSize, cfg)
			for slot := range int64(256) {
				p := secret(t, text, slot%9 == 0)
				if slot%5 == 0 {
					fill(p, 0x746e656d656c6521, 0) // "!element"; its halves differ
				}
				write(t, d, p, slot*PageSize)
			}
			discard := func(off, n int64) {
				t.Helper()
				if _, err := d.Do(&Request{Op: op, Off: off, Len: n}); err != nil {
					t.Fatal(err)
				}
			}
			if frames > 0 {
				drain(t, d)
			}
			for slot := range int64(256) {
				if slot%4 != 0 {
					discard(slot*PageSize, PageSize)
				}
			}
			if err := store(d, "compact", "1"); err != nil {
				t.Fatal(err)
			}
			discard(1000, 512) // a part of the first page
			discard(PageSize-8, 255*PageSize)
			discard(255*PageSize, PageSize)
			if frames > 0 {
				drain(t, d)
			}
			wantGone(t, d, text)
			discard(0, PageSize)
			wantGone(t, d, []byte("!element"))
		}
	}
}

// A page that is discarded while it is compressed: the result is dropped, and
// leaves nothing either.
func TestDiscardUnderCompressionLeavesNothing(t *testing.T) {
	text := []byte("tr0ub4dor&3:Xk9vQz2LmTf8Rb")
	d := newHeld(t, stable.Snapshot)
	write(t, d.Device, secret(t, text, false), 0)
	<-d.at
	if err := d.Discard(0, PageSize); err != nil {
		t.Fatal(err)
	}
	d.letGo <- struct{}{}
	drain(t, d.Device)
	d.disk.Load().quiet.Lock() // the compressor drops its result before it lets go
	defer d.disk.Load().quiet.Unlock()
	wantGone(t, d.Device, text)
}

// A discard of slots that were used once and are empty now goes in steps, as
// one of slots that hold something does: each word is looked at.
func TestDiscardOfEmptySlotsGoesInSteps(t *testing.T) {
	const size = 64 << 30
	d := newDevice(t, size, testConfig(t))
	k := d.disk.Load()
	for slot := uint64(0); slot < size/PageSize; slot += slotsPerTablePage {
		k.table.ensure(slot)
	}
	done := make(chan error, 1)
	r := &Request{Op: OpDiscard, Len: size, Done: func(_ *Request, _ int, err error) { done <- err }}
	_, parked, err := d.Submit(r)
	if !parked {
		t.Fatalf("16 million slots were looked at by the thread that reads requests (%v)", err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if n := column(t, d, "io_stat", 3); n != size/PageSize {
		t.Errorf("notify_free %d, want %d", n, int64(size/PageSize))
	}
}

// A check does not wait for the end of a long discard: it steps out of the
// gate, and goes on afterwards.
func TestCheckOvertakesDiscard(t *testing.T) {
	const size = 8 << 30
	src := newSource(t)
	o := quietOptions(t, size, 0)
	d, err := createDisk(src, "zram0", o)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { src.Drop("zram0", d.region) }()
	for slot := uint64(0); slot < size/PageSize; slot += slotsPerTablePage {
		d.table.ensure(slot)
	}
	answered := false
	r := &Request{Op: OpDiscard, Len: size, Done: func(_ *Request, n int, err error) {
		if answered = true; n != size || err != nil {
			t.Errorf("the discard: %d, %v", n, err)
		}
	}}
	if _, parked, err := d.submit(r); !parked {
		t.Fatalf("a discard of everything was done at once (%v)", err)
	}
	d.gate.closed.Store(true)
	d.sweep()
	if n := d.gate.inside(); n != 0 || answered {
		t.Fatalf("%d requests are inside, answered %v", n, answered)
	}
	before := r.done
	d.gate.open()
	d.admit()
	if before == 0 || r.done < before {
		t.Errorf("the discard stood at %d and goes on from %d", before, r.done)
	}
	d.sweep()
	if !answered {
		t.Error("the discard was not answered")
	}
}
