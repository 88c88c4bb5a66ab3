package blockdev

import "time"

const (
	trimPause = time.Second
	trimStep  = 256 // blocks in a discard at most
)

// runTrimmer tells the device which blocks it need not keep.
func (d *disk) runTrimmer() {
	b := d.back
	clock := time.NewTicker(trimPause)
	defer clock.Stop()
	for {
		select {
		case <-d.stop:
			return
		case <-clock.C:
		}
		for from := uint64(0); !b.mute.Load(); {
			first, n := d.claimLoose(from)
			if n == 0 {
				break
			}
			err := b.dev.Discard(int64(first)*PageSize, int64(n)*PageSize)
			if err != nil {
				b.mute.Store(true)
			}
			if !d.unclaim(first, n, false) {
				return
			}
			from = first + uint64(n)
		}
	}
}

func (d *disk) claimLoose(from uint64) (first uint64, n int) {
	b := d.back
	if !b.inside.enter(0) {
		return 0, 0
	}
	defer b.inside.leave(0)
	d.quiet.RLock()
	defer d.quiet.RUnlock()
	if b.blocks.freed.Load() == 0 {
		return 0, 0
	}
	return b.blocks.nextLoose(from, trimStep)
}

// unclaim gives back blocks that were the caller's while it waited for the
// device. False: the disk is gone.
func (d *disk) unclaim(first uint64, n int, loose bool) bool {
	b := d.back
	if !b.inside.enter(0) {
		return false
	}
	defer b.inside.leave(0)
	d.quiet.RLock()
	defer d.quiet.RUnlock()
	b.blocks.unclaim(first, n, loose)
	return true
}
