package blockdev

import (
	"fmt"
	"strings"
	"testing"
)

// memoryLine reads a line of memory_stat.
func memoryLine(tb testing.TB, d *Device, name string) (n int64) {
	tb.Helper()
	for line := range strings.Lines(show(tb, d, "memory_stat")) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			if _, err := fmt.Sscan(value, &n); err != nil {
				tb.Fatal(err)
			}
			return n
		}
	}
	tb.Fatalf("memory_stat has no %s", name)
	return 0
}

// As the memory limit leaves less room, less is kept ready: a limit bounds what
// the store and its reserve take together, but for a little.
func TestReserveUnderTheLimit(t *testing.T) {
	const limit, little = 8 << 20, 512 << 10
	cfg := testConfig(t)
	cfg.ReserveLow, cfg.ReserveHigh, cfg.MemLimit, cfg.LimitWait = 3<<20, 4<<20, limit, -1
	d := newDevice(t, 16<<20, cfg)
	keep := func() (target, taken int64) {
		t.Helper()
		d.disk.Load().keepUp()
		return memoryLine(t, d, KeyReserveTarget), memoryLine(t, d, "pool") + memoryLine(t, d, "reserve")
	}
	if target, _ := keep(); target != cfg.ReserveHigh {
		t.Errorf("an empty disk keeps %d bytes ready, want %d", target, cfg.ReserveHigh)
	}
	page := incompressible()
	for off := int64(0); off < limit; off += PageSize {
		if off%(limit/8) == 0 {
			if target, taken := keep(); taken > limit+little {
				t.Errorf("with %d bytes stored the store takes %d, %d of them to be ready; the limit is %d", off, taken, target, limit)
			}
		}
		write(t, d, page, off)
	}
	if target, taken := keep(); target > little || taken > limit+little {
		t.Errorf("at the limit the store takes %d bytes, %d of them to be ready; the limit is %d", taken, target, limit)
	}
	if err := store(d, "mem_limit", fmt.Sprint(2*limit)); err != nil {
		t.Fatal(err)
	}
	if target, taken := keep(); target != cfg.ReserveHigh || taken < limit+cfg.ReserveLow {
		t.Errorf("under twice the limit the store takes %d bytes, %d of them to be ready", taken, target)
	}
}
