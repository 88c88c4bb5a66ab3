package blockdev

import (
	"fmt"

	"github.com/zramfs/zramfs/stable"
)

// KeyUpkeep is the line of memory_stat that tells which thread has
// Config.UpkeepThread called on it; 0: there is none.
const KeyUpkeep = "upkeep_thread"

// KeyReserveTarget is the line that tells up to how many bytes upkeep fills the
// reserve: less than Config.ReserveHigh where the memory limit has little room.
const KeyReserveTarget = "reserve_target"

// zramfsAttributes: statistics that the kernel does not have, one "name value"
// a line.
func zramfsAttributes() []Attribute {
	return []Attribute{
		{
			Dir: DirZramfs, Name: "stable_stat", Mode: 0o644,
			Help:  "what the stable-page promise cost and whether it held; storing N audits one page in N, 0 none",
			Show:  showStable,
			Store: storeAudit,
		},
		{
			Dir: DirZramfs, Name: "stream_stat", Mode: 0o444,
			Help: "a line per stream: pages compressed, bytes stored, pages decompressed, pages read, pages written, requests parked",
			Show: showStreams,
		},
		{
			Dir: DirZramfs, Name: "memory_stat", Mode: 0o444,
			Help: "where the memory is, in bytes: pool, frames, tables, reserve, waste, buffers and processes; which thread commits it",
			Show: showMemory,
		},
	}
}

func showStable(d *Device, b []byte) ([]byte, error) {
	s := &stable.Stats{}
	if k := d.hold(); k != nil {
		defer k.letGo() // the counters lie in the disk's region
		s = k.stable
	}
	for _, row := range []struct {
		name string
		n    uint64
	}{
		{"overwritten", s.Overwritten.Load()},
		{"snapshots", s.Snapshots.Load()},
		{"waits", s.Waits.Load()},
		{"refusals", s.Refusals.Load()},
		{"dropped", s.Dropped.Load()},
		{"audited", s.Audited.Load()},
		{"caught", s.Caught.Load()},
		{"audit_one_in", uint64(s.AuditRate())},
	} {
		b = fmt.Appendf(b, "%s %d\n", row.name, row.n)
	}
	return b, nil
}

func storeAudit(d *Device, value string) error {
	n, err := parseCount("stable_stat", trim(value), 0, 1<<32-1)
	if err != nil {
		return err
	}
	k, err := d.disked("stable_stat")
	if err != nil {
		return err
	}
	defer k.letGo()
	k.stable.AuditEvery(uint32(n))
	return nil
}

func showStreams(d *Device, b []byte) ([]byte, error) {
	k := d.hold()
	if k == nil {
		return b, nil
	}
	defer k.letGo()
	b = append(b, "stream compressed stored decompressed read written parked\n"...)
	for i := range k.lanes {
		l, s := &k.lanes[i], k.codecs.Stream(i).Stats()
		b = fmt.Appendf(b, "%6d %10d %6d %12d %4d %7d %6d\n", i, s.Compressed+s.Incompressible, s.BytesOut, s.Decompressed,
			l.reads.Load(), l.writes.Load(), l.parked.Load())
	}
	return b, nil
}

func showMemory(d *Device, b []byte) ([]byte, error) {
	b, err := d.appendMemory(b)
	if add := d.set.cfg.Memory; err == nil && add != nil {
		return add(b)
	}
	return b, err
}

// appendMemory tells where the disk's memory is.
func (d *Device) appendMemory(b []byte) ([]byte, error) {
	k := d.hold()
	if k == nil {
		return b, nil
	}
	defer k.letGo()
	p := k.pool.Stats()
	frames, frameBytes := 0, int64(0)
	if k.frames != nil {
		frames, frameBytes = k.frames.InUse(), k.layout.staging.n
	}
	resident, err := k.region.Resident()
	if err != nil {
		return b, fmt.Errorf("memory_stat: %w", err)
	}
	for _, row := range []struct {
		name string
		n    int64
	}{
		{"pool", p.Pages * PageSize},
		{"staged", int64(frames) * PageSize},
		{"frames", frameBytes},
		{"reserve", p.Free * PageSize},
		{KeyReserveTarget, p.Target * PageSize},
		{"waste", p.Waste * PageSize},
		{"tables", resident - p.Committed*PageSize - frameBytes},
		{"resident", resident},
		{KeyUpkeep, k.upkeep.tid.Load()},
	} {
		b = fmt.Appendf(b, "%s %d\n", row.name, row.n)
	}
	return b, nil
}
