package blockdev

import (
	"context"
	"fmt"
	"strconv"
	"sync/atomic"
)

// storeIdle marks pages as idle: all, or those whose last access is some seconds
// ago. A read or a write of a page takes its mark.
func storeIdle(ctx context.Context, d *Device, value string) error {
	age, all := uint64(0), trim(value) == "all"
	if !all {
		var err error
		if age, err = strconv.ParseUint(trim(value), 0, 64); err != nil {
			return fmt.Errorf("idle %q: need all, or an age in seconds: %w", trim(value), ErrInvalid)
		}
	}
	k, err := d.disked("idle")
	if err != nil {
		return err
	}
	defer k.letGo()
	if all {
		_, err = k.markIdle(ctx, 0)
		return err
	}
	if now := uint64(bootSeconds()); age < now {
		_, err = k.markIdle(ctx, uint32(now-age))
		return err
	}
	_, err = k.markIdle(ctx, 1) // nothing is as old as that
	return err
}

// markIdle marks as idle what was last used before a second of the device's clock
// (0: everything), takes the mark from the rest, and says how many pages are idle
// then. Empty, same-filled, lost and backed pages are never marked: nothing is done
// with them. It takes one slot's lock at a time.
func (d *disk) markIdle(ctx context.Context, before uint32) (marked int64, err error) {
	for slot := d.table.nextPresent(0); slot < d.table.slots(); slot = d.table.nextPresent(slot) {
		if err := ctx.Err(); err != nil {
			return marked, err
		}
		end := min((slot/slotsPerTablePage+1)*slotsPerTablePage, d.table.slots())
		d.quiet.RLock()
		for ; slot < end; slot++ {
			if d.markSlot(slot, before) {
				marked++
			}
		}
		d.quiet.RUnlock()
	}
	return marked, nil
}

// markSlot says whether a slot is idle, after marking it so or otherwise.
func (d *disk) markSlot(slot uint64, before uint32) bool {
	w := word(atomic.LoadUint64(&d.table.words[slot]))
	if s := w.state(); s != staged && s != stored && s != huge {
		return false
	}
	d.table.lock(slot)
	defer d.table.unlock(slot)
	w = d.table.load(slot)
	if s := w.state(); s != staged && s != stored && s != huge || !w.sound(slot) {
		return false
	}
	idle := before == 0 || atomic.LoadUint32(&d.table.atimes[slot]) < before
	if idle != w.has(flagIdle) {
		d.table.store(slot, w^flagIdle)
	}
	return idle
}
