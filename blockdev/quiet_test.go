package blockdev

import (
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
	freed := k.compactUntil(func(freed int64) bool {
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
