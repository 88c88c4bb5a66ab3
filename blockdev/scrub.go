package blockdev

import (
	"fmt"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/zramfs/zramfs/internal/shm"
)

// Scrubbing reads the pages in turn, for ever, at a rate that is set, and sees
// whether each is what was stored: a page that nobody reads is found damaged
// while there may still be another copy of what was in it. It changes nothing.

const (
	// maxScrub is the highest rate, in MiB of pages a second.
	maxScrub = 1 << 20
	// scrubStep is most pages that are looked at between two rests.
	scrubStep = 128
	// scrubPause is how long an empty disk is left alone, and the least that a
	// pass takes.
	scrubPause = time.Second
)

// integrity is what is known of damage; it outlives a worker.
type integrity struct {
	passes  atomic.Int64  // of the scrub, that came to the end of the disk
	pages   atomic.Int64  // that the scrub looked at
	corrupt atomic.Int64  // of them
	cursor  atomic.Uint64 // slot where the scrub goes on
	bad     atomic.Uint64 // the last slot that anybody found damaged, and one; 0: none
	badAt   atomic.Int64  // when, Unix seconds
	checks  atomic.Int64  // that came to their end
}

func integrityOf(r *shm.Region) *integrity {
	return (*integrity)(unsafe.Add(r.Base(), keptAt+integrityAt))
}

// scrub is the goroutine's state.
type scrub struct {
	rate atomic.Int64  // MiB a second; 0: off
	wake chan struct{} // immutable; capacity 1
	part [8]byte       // the goroutine's own; where a page's first bytes go
}

// bad counts a damaged page.
func (d *disk) bad(slot uint64) {
	d.lanes[0].corrupt.Add(1)
	d.noteBad(slot)
}

// noteBad remembers a page that was found damaged, and counted.
func (d *disk) noteBad(slot uint64) {
	d.integrity.badAt.Store(time.Now().Unix())
	d.integrity.bad.Store(slot + 1)
}

// setScrub changes the rate; the goroutine hears of it at once.
func (d *disk) setScrub(rate int64) {
	d.scrub.rate.Store(rate)
	select {
	case d.scrub.wake <- struct{}{}:
	default:
	}
}

// runScrub scrubs for as long as there is a rate.
func (d *disk) runScrub() {
	rest := time.NewTimer(scrubPause)
	defer rest.Stop()
	began := time.Now()
	for {
		rate := d.scrub.rate.Load()
		if rate == 0 {
			rest.Stop()
		}
		select {
		case <-d.stop:
			return
		case <-d.scrub.wake:
			rest.Reset(0)
			continue
		case <-rest.C:
		}
		pages, ended := d.scrubSome(rate)
		pause := atRate(int64(pages), rate)
		if ended {
			pause = max(pause, scrubPause-time.Since(began))
			began = time.Now().Add(pause)
		}
		rest.Reset(pause)
	}
}

// scrubSome takes one step, and says how many pages it looked at, and whether
// it came to the end of the disk.
func (d *disk) scrubSome(rate int64) (pages int, ended bool) {
	i := d.integrity
	next := d.walkSome(i.cursor.Load(), int(min(max(rate, 1), scrubStep)), func(slot uint64, w word) {
		pages++
		if err := d.verifySlot(slot, w, d.scrub.part[:]); err != nil {
			i.corrupt.Add(1)
			d.bad(slot)
		}
	})
	i.pages.Add(int64(pages))
	if ended = next >= d.table.slots(); ended {
		i.passes.Add(1)
		next = 0
	}
	i.cursor.Store(next)
	return pages, ended
}

// atRate is how long so many pages take at so many MiB a second, for as many pages
// as a disk may have.
func atRate(pages, rate int64) time.Duration {
	const perMiB = 1 << 20 / PageSize
	return time.Duration(pages) * (time.Second / perMiB) / time.Duration(rate)
}

// integritySettings is the row of the scrub's rate.
func integritySettings() []setting {
	return []setting{numberSetting("scrub", maxScrub,
		func(s *settings) int64 { return s.scrub }, func(s *settings, n int64) { s.scrub = n })}
}

// integrityAttributes: what is damaged, and how it is looked for.
func integrityAttributes() []Attribute {
	return []Attribute{
		{
			Dir: DirZramfs, Name: "scrub", Mode: 0o644,
			Help: "MiB of pages a second that are read in the background to find damage early; 0 is off",
			Show: func(d *Device, b []byte) ([]byte, error) {
				d.mu.Lock()
				defer d.mu.Unlock()
				return fmt.Appendf(b, "%d\n", d.next.scrub), nil
			},
			Store: func(d *Device, value string) error {
				n, err := parseCount("scrub", trim(value), 0, maxScrub)
				if err != nil {
					return err
				}
				return d.change(func(s *settings) error { s.scrub = n; return nil }, func(k *disk) { k.setScrub(n) })
			},
		},
		{
			Dir: DirZramfs, Name: "integrity_stat", Mode: 0o444,
			Help: "pages whose word, object or checksum was found wrong, the last of them, and what the scrub has done",
			Show: showIntegrity,
		},
	}
}

func showIntegrity(d *Device, b []byte) ([]byte, error) {
	k := d.hold()
	if k == nil {
		return append(b, "corrupt 0\n"...), nil
	}
	defer k.letGo()
	i := k.integrity
	for _, row := range []struct {
		name string
		n    int64
	}{
		{"corrupt", d.sums().corrupt},
		{"checks", i.checks.Load()},
		{"scrub_rate", k.scrub.rate.Load()},
		{"scrub_passes", i.passes.Load()},
		{"scrub_pages", i.pages.Load()},
		{"scrub_corrupt", i.corrupt.Load()},
		{"scrub_at", int64(i.cursor.Load())},
	} {
		b = fmt.Appendf(b, "%s %d\n", row.name, row.n)
	}
	if slot := i.bad.Load(); slot != 0 {
		b = fmt.Appendf(b, "last_corrupt %d\nlast_corrupt_time %d\n", slot-1, i.badAt.Load())
	}
	return b, nil
}
