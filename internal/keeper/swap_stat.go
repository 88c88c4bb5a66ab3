package keeper

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/zramfs/zramfs/blockdev"
	"github.com/zramfs/zramfs/internal/host"
)

// attrSwap is the attribute that tells about swap in segments.
const attrSwap = "swap_stat"

// swapAttribute is the row that the worker adds to the table. Pages are told
// as bytes.
func (w *worker) swapAttribute() blockdev.Attribute {
	return blockdev.Attribute{
		Dir: blockdev.DirZramfs, Name: attrSwap, Mode: 0o444,
		Help: "swap in segments: how many there are and are enabled, ratio seen, room left and held back, watchdog",
		Show: func(_ *blockdev.Device, b []byte) ([]byte, error) {
			if w.header.region == nil {
				return b, nil // without a keeper's thread there are no segments
			}
			return openRoom(w.header.room()).appendTo(b), nil
		},
	}
}

// appendTo is the text of swap_stat, "name value" a line.
func (p *roomPage) appendTo(b []byte) []byte {
	silent := int64(0)
	if last := p.last.Load(); last != 0 {
		silent = (monotonic() - last) / 1e9
	}
	for _, row := range []struct {
		name string
		n    int64
	}{
		{"segments_total", p.total.Load()},
		{"segments_enabled", p.enabled.Load()},
		{"segments_populated", p.populated.Load()},
		{"segment_size", p.segment.Load() * pageSize},
		{"slots_free", p.free.Load() * pageSize},
		{"ratio_percent", p.ratio.Load()},
		{"cap", p.cap.Load() * pageSize},
		{"room", p.room.Load() * pageSize},
		{"held_back", p.held.Load() * pageSize},
		{"waiting", p.waiting.Load()},
		{"halted", p.halted.Load()},
		{"swapon_errno", p.errno.Load()},
		{"watchdog_armed", p.armed.Load()},
		{"watchdog_fired", p.fired.Load()},
		{"watchdog_fired_seconds_ago", silent},
	} {
		b = fmt.Appendf(b, "%s %d\n", row.name, row.n)
	}
	return b
}

// keepLimit takes the limit of a store that is there already, unless another is
// given: memory that is free now does not count what the store holds.
func (c *SwapConfig) keepLimit(point string) error {
	m, ok, err := host.MountAt(point)
	if err != nil || !ok || m.Type != host.FSType || c.MemLimit != 0 {
		return err
	}
	c.MemLimit, err = answered(point, patience, func() (int64, error) { return limitOf(point) })
	return err
}

// limitOf is the limit of the store of the disk on point; 0: none.
func limitOf(point string) (int64, error) {
	text, err := os.ReadFile(filepath.Join(point, blockDir, "zram0", "mm_stat"))
	if err != nil {
		return 0, fmt.Errorf("read the limit of the store: %w", err)
	}
	var m MemoryStat
	columns(string(text), &m.OrigDataSize, &m.ComprDataSize, &m.MemUsedTotal, &m.MemLimit)
	return m.MemLimit, nil
}
