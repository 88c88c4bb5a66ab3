package blockdev

import "fmt"

// statAttributes: the kernel's statistics files, column by column.
func statAttributes() []Attribute {
	return []Attribute{
		{
			Dir: DirBlock, Name: "io_stat", Mode: 0o444,
			Help: "failed_reads failed_writes invalid_io notify_free",
			Show: func(d *Device, b []byte) ([]byte, error) {
				s := d.sums()
				return fmt.Appendf(b, "%8d %8d %8d %8d\n", s.failedReads, s.failedWrites, 0, s.discards), nil
			},
		},
		{
			Dir: DirBlock, Name: "mm_stat", Mode: 0o444,
			Help: "orig_data_size compr_data_size mem_used_total mem_limit mem_used_max same_pages pages_compacted huge_pages huge_pages_since",
			Show: func(d *Device, b []byte) ([]byte, error) {
				m := d.memory()
				return fmt.Appendf(b, "%8d %8d %8d %8d %8d %8d %8d %8d %8d\n", m.pages*PageSize, m.bytes,
					m.used*PageSize, m.limit, m.max*PageSize, m.same, m.compacted, m.huge, m.hugeSince), nil
			},
		},
		{
			Dir: DirBlock, Name: "debug_stat", Mode: 0o444,
			Help: "version, then writestall (always 0) and miss_free",
			Show: func(d *Device, b []byte) ([]byte, error) {
				return fmt.Appendf(b, "version: 1\n%8d %8d\n", 0, d.sums().missFree), nil
			},
		},
	}
}

// sums is the total of the counters, zero without a disk.
func (d *Device) sums() (s sums) {
	if k := d.hold(); k != nil {
		defer k.letGo()
		s = sumLanes(k.lanes)
	}
	return s
}

// memory is what mm_stat tells, in pages unless said otherwise.
type memory struct {
	sums
	used, max, compacted int64
	limit                int64 // bytes
}

func (d *Device) memory() (m memory) {
	d.mu.Lock()
	m.limit = d.next.limit
	d.mu.Unlock()
	if k := d.hold(); k != nil {
		defer k.letGo()
		m.sums = sumLanes(k.lanes)
		m.used, m.max = k.account.used.Load(), k.account.max.Load()
		m.compacted = k.kept.compacted.Load()
	}
	return m
}
