package blockdev

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
)

// Who wants the disk quiet does not wait for the end of a compaction, which goes on
// afterwards.
func TestCompactionLetsChecksBy(t *testing.T) {
	const slots = 8192
	d := newDevice(t, slots*PageSize, testConfig(t))
	left := fragmented(t, d, slots)
	k := d.disk.Load()
	var quiet atomic.Bool
	asked := 0
	freed := k.compactUntil(k.ending, func(freed int64) bool {
		switch asked++; {
		case asked == 2:
			k.gate.closed.Store(true) // as shut does
			go func() {
				k.quiet.Lock()
				quiet.Store(true)
				k.quiet.Unlock()
				k.reopen()
			}()
		case asked == 3 && !quiet.Load():
			t.Error("compaction goes on while somebody wants the disk quiet")
		}
		return false
	})
	if again, err := d.Compact(); freed == 0 || again != 0 || asked < 3 || err != nil {
		t.Errorf("%d pages freed, then %d, asked %d times: %v", freed, again, asked, err)
	}
	for slot, page := range left {
		wantPage(t, d, slot, page)
	}
}

// What takes as long as the disk is large can be interrupted, and other attributes
// are served meanwhile.
func TestLongStoresCanBeInterrupted(t *testing.T) {
	d := newDevice(t, 64*PageSize, testConfig(t))
	write(t, d, stamped(t, 1), 0)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	found := 0
	for _, a := range Attributes() {
		value, ok := map[string]string{"compact": "1", "idle": "all", "populate": "1"}[a.Name]
		if !ok {
			continue
		}
		found++
		if a.StoreSlow == nil {
			t.Errorf("%s keeps other attributes waiting", a.Name)
		}
		if err := a.Do(ctx, d, value); !errors.Is(err, ErrInterrupted) {
			t.Errorf("%s: %v, want ErrInterrupted", a.Name, err)
		}
		if err := a.Do(t.Context(), d, value); err != nil {
			t.Errorf("%s: %v", a.Name, err)
		}
	}
	if found != 3 {
		t.Errorf("%d of 3 attributes are there", found)
	}
}
