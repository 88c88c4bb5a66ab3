package blockdev

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync/atomic"
	"testing"

	"github.com/zramfs/zramfs/internal/invariants"
	"github.com/zramfs/zramfs/pool"
)

var errInjected = errors.New("injected failure")

// nth fails the k-th call.
type nth struct {
	k     int64
	calls atomic.Int64
}

func (n *nth) fail() error {
	if n.calls.Add(1) == n.k {
		return errInjected
	}
	return nil
}

// frail is pool memory whose k-th commit fails.
type frail struct {
	pool.Memory
	commit *nth
}

func (m frail) Populate(off, n int64) error {
	if err := m.commit.fail(); err != nil {
		return err
	}
	return m.Memory.Populate(off, n)
}

// Fail the k-th commit, compression and allocation for every k: the write that
// meets it gets an error or waits it out, the old content stays, and the disk
// goes on.
func TestEveryKthFailure(t *testing.T) {
	for kind, size := range map[string]int64{
		"commit":      700 * PageSize, // many chunks
		"compression": 100 * PageSize,
		"allocation":  100 * PageSize,
	} {
		t.Run(kind, func(t *testing.T) {
			failures := 0
			for k := int64(1); ; k += everyKth() {
				n := &nth{k: k}
				if !failOnce(t, kind, n, size) {
					break
				}
				failures++
			}
			t.Logf("%d failures", failures)
			if failures == 0 {
				t.Error("nothing ever failed")
			}
		})
	}
}

// everyKth is 1: each failure is tried. Builds with checks, which take ten
// times as long, try some.
func everyKth() int64 {
	if invariants.Enabled && os.Getenv("ZRAMFS_LONG") != "1" {
		return 7
	}
	return 1
}

// failOnce runs a history with one failure and says whether it was reached.
func failOnce(t *testing.T, kind string, n *nth, size int64) bool {
	cfg := testConfig(t)
	cfg.ReserveLow, cfg.ReserveHigh = 128<<10, 256<<10
	f := &faults{}
	switch kind {
	case "commit":
		f.wrap = func(m pool.Memory) pool.Memory { return frail{m, n} }
	case "compression":
		f.compress = n.fail
	case "allocation":
		f.put = n.fail
	}
	cfg.faults = f
	set, err := NewSet(cfg)
	if err != nil {
		t.Fatal(err)
	}
	id, err := set.HotAdd()
	if err != nil {
		t.Fatal(err)
	}
	d := set.Device(id)
	if err := d.SetSize(size); err != nil {
		if !errors.Is(err, errInjected) {
			t.Fatal(err)
		}
		return true // failed while it was made, and left nothing
	}
	defer func() {
		if err := d.Check(); err != nil {
			t.Errorf("k %d: Check: %v", n.k, err)
		}
		if err := set.Close(); err != nil {
			t.Error(err)
		}
	}()
	m := &model{disk: make([]byte, size)}
	r := rand.New(rand.NewPCG(5, 6))
	for slot := range size / PageSize {
		p := randomPage(t, r)
		if err := faultyWrite(d, m, p, slot*PageSize); err != nil {
			t.Fatalf("k %d: %v", n.k, err)
		}
	}
	for range size / PageSize / 2 {
		off := r.Int64N(size - PageSize)
		if err := faultyWrite(d, m, randomPage(t, r)[:1+r.IntN(PageSize)], off); err != nil {
			t.Fatalf("k %d: %v", n.k, err)
		}
	}
	if got := read(t, d, int(size), 0); !bytes.Equal(got, m.disk) {
		t.Fatalf("k %d: %s", n.k, firstDifference(got, m.disk))
	}
	return n.calls.Load() >= n.k
}

// faultyWrite writes; what the disk says it has not written keeps its old
// content in the model.
func faultyWrite(d *Device, m *model, p []byte, off int64) error {
	n, err := d.WriteAt(p, off)
	copy(m.disk[off:], p[:n])
	if err != nil && !errors.Is(err, errInjected) && !errors.Is(err, ErrNoSpace) {
		return fmt.Errorf("write of %d at %d: %w", len(p), off, err)
	}
	return nil
}
