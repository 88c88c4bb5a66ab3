package keeper

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestNoMoreSwapDevices: swapon says so at once where the kernel takes only some
// of the segments.
func TestNoMoreSwapDevices(t *testing.T) {
	page := &roomPage{}
	page.enabled.Store(3)
	page.errno.Store(int64(unix.EPERM))
	err := awaitSwap(&question{ctx: t.Context()}, page)
	if err == nil || !strings.Contains(err.Error(), "segment 3: the kernel takes no more swap devices") {
		t.Errorf("got %v", err)
	}
}
