package blockdev

import (
	"fmt"
	"sync/atomic"
)

// limitAttributes: what happens when there is no room under the memory limit.
func limitAttributes() []Attribute {
	return []Attribute{
		{
			Dir: DirZramfs, Name: "limit_policy", Mode: 0o644,
			Help: "what is done for a write at the memory limit, in order: compact,recompress,writeback,wait=TIME, or none",
			Show: func(d *Device, b []byte) ([]byte, error) {
				d.mu.Lock()
				defer d.mu.Unlock()
				return fmt.Appendf(b, "%v\n", d.next.ladder), nil
			},
			Store: func(d *Device, value string) error {
				p, err := parseLimitPolicy(trim(value))
				if err != nil {
					return err
				}
				return d.change(func(s *settings) error { s.ladder = p; return nil }, func(k *disk) { k.setLadder(p) })
			},
		},
		{
			Dir: DirZramfs, Name: "limit_stat", Mode: 0o444,
			Help: "a line per rung of the ladder: how often it was tried, pages of memory that it freed, microseconds; then writes that waited, and writes refused",
			Show: showLimit,
		},
	}
}

// limitStat counts what the ladder does. It lies in shared memory, so that a
// worker's death does not begin it anew.
type limitStat struct {
	rungs   [rungCount]rungStat
	waits   atomic.Int64 // writes that waited for room under the limit
	waited  atomic.Int64 // nanoseconds that they did
	refused atomic.Int64 // writes that got ErrNoSpace for want of it
}

type rungStat struct {
	tried, freed, nanos atomic.Int64
}

func showLimit(d *Device, b []byte) ([]byte, error) {
	s := &limitStat{}
	if k := d.hold(); k != nil {
		defer k.letGo() // the counters lie in the disk's region
		s = k.ladder.stat
	}
	b = append(b, "rung       tried freed time_us\n"...)
	for i := range s.rungs {
		r := &s.rungs[i]
		b = fmt.Appendf(b, "%-10v %d %d %d\n", rungNumber(i+1), r.tried.Load(), r.freed.Load(), r.nanos.Load()/1000)
	}
	b = fmt.Appendf(b, "%-10s %d 0 %d\n", "wait", s.waits.Load(), s.waited.Load()/1000)
	return fmt.Appendf(b, "%-10s %d 0 0\n", "refuse", s.refused.Load()), nil
}
