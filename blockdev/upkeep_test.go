package blockdev

import (
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// upkeepThread gives the line of memory_stat about upkeep's thread.
func upkeepThread(t *testing.T, d *Device) (id int64) {
	t.Helper()
	for line := range strings.Lines(show(t, d, "memory_stat")) {
		if rest, ok := strings.CutPrefix(line, KeyUpkeep+" "); ok {
			n, err := parseUnsigned(KeyUpkeep, trim(rest), 1<<32)
			if err != nil {
				t.Fatal(err)
			}
			return int64(n)
		}
	}
	t.Fatalf("memory_stat has no %s", KeyUpkeep)
	return 0
}

// memory_stat tells on which thread UpkeepThread was called: who looks whether it
// is as urgent as it should be must not take another for it.
func TestUpkeepThreadIsTold(t *testing.T) {
	if id := upkeepThread(t, newDevice(t, 16*PageSize, testConfig(t))); id != 0 {
		t.Errorf("thread %d, though upkeep has none of its own", id)
	}
	var called atomic.Int64
	cfg := testConfig(t)
	cfg.UpkeepThread = func(bool) { called.Store(int64(unix.Gettid())) }
	d := newDevice(t, 16*PageSize, cfg)
	eventually(t, "the start of upkeep", func() bool { return upkeepThread(t, d) != 0 })
	if id := upkeepThread(t, d); id != called.Load() {
		t.Errorf("thread %d is told, thread %d commits memory", id, called.Load())
	}
}
