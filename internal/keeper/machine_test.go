package keeper

import (
	"testing"

	"github.com/zramfs/zramfs/blockdev"
)

// With real-time priority a step of upkeep begins only where what such a thread
// may take, down to half of the watermark, lasts for all of it.
func TestScarceBelow(t *testing.T) {
	for _, total := range []int64{88 << 20, 220 << 20, 1 << 30, 64 << 30} {
		half := wantMinFree(total) << 10 / 2
		if least := scarceBelow(total); least < half+blockdev.CommitStep || least > 2*half+blockdev.CommitStep {
			t.Errorf("with %d MiB of memory it begins with %d KiB free; half of the watermark is %d KiB", total>>20, least>>10, half>>10)
		}
	}
}
