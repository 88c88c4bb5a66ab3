package blockdev

import (
	"fmt"

	"github.com/zramfs/zramfs/pool"
)

// debugAttributes: what the kernel shows under /sys/kernel/debug.
func debugAttributes() []Attribute {
	return []Attribute{
		{
			Dir: DirClasses, Name: "classes", Mode: 0o444,
			Help: "the pool's size classes: zspages by fullness, objects, pages",
			Show: func(d *Device, b []byte) ([]byte, error) {
				k := d.hold()
				if k == nil {
					return b, nil
				}
				defer k.letGo()
				return appendClasses(b, k.pool.Classes()), nil
			},
		},
		{
			Dir: DirDebug, Name: "block_state", Mode: 0o400,
			Help:   "a line per page held: index, access time, and flags: s same, w written back, h huge, i idle, r recompressed, n incompressible",
			ShowAt: showBlockState,
		},
	}
}

// appendClasses prints the columns of zsmalloc's debugfs file (mm/zsmalloc.c,
// zs_stats_size_show): zspages by how full they are, then objects and pages.
func appendClasses(b []byte, rows []pool.ClassStat) []byte {
	b = fmt.Appendf(b, " %5s %5s", "class", "size")
	for _, head := range []string{"10%", "20%", "30%", "40%", "50%", "60%", "70%", "80%", "90%", "99%", "100%"} {
		b = fmt.Appendf(b, " %9s", head)
	}
	b = fmt.Appendf(b, " %13s %10s %10s %16s %8s\n", "obj_allocated", "obj_used", "pages_used", "pages_per_zspage", "freeable")
	row := func(c pool.ClassStat) {
		for _, n := range c.Groups {
			b = fmt.Appendf(b, " %9d", n)
		}
		b = fmt.Appendf(b, " %13d %10d %10d", c.Allocated, c.Used, c.Pages)
	}
	for _, c := range rows {
		b = fmt.Appendf(b, " %5d %5d", c.Index, c.Size)
		row(c)
		b = fmt.Appendf(b, " %16d %8d\n", c.PerZspage, c.Freeable)
	}
	total := pool.Total(rows)
	b = fmt.Appendf(b, "\n %5s %5s", "Total", "")
	row(total)
	return fmt.Appendf(b, " %16s %8d\n", "", total.Freeable)
}
