package keeper

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zramfs/zramfs/internal/host"
)

// SwapOffConfig is what swapoff was asked for.
type SwapOffConfig struct {
	Name  string
	Force bool // although memory seems not to hold what is swapped out
	// Progress is told now and then how many bytes are back in memory, of how
	// many; nil: nobody asks.
	Progress func(done, total int64)
}

// SwapOff undoes SwapOn: every page returns to memory, then the guards, the
// loop devices, the mount and the directory go. Where memory cannot hold the
// pages it changes nothing. When ctx ends it stops: what is still swap stays
// swap, and the next SwapOff or SwapOn goes on from there.
func SwapOff(ctx context.Context, c SwapOffConfig) error {
	if err := checkSwapName(c.Name); err != nil {
		return err
	}
	unlock, err := lockRunDir()
	if err != nil {
		return err
	}
	defer unlock()
	point := filepath.Join(RunDir, c.Name)
	if m, ok, err := host.MountAt(point); err != nil {
		return err
	} else if !ok || m.Type != host.FSType {
		if found, err := swapOffOrphans(point); found || err != nil {
			return err
		}
		return Errorf(CodeNotMounted, "no swap of name %s: zramfs status lists what is there", c.Name)
	}
	loops, err := host.LoopsBelow(point)
	if err != nil {
		return err
	}
	_ = hold(point) // before looking what is enabled; where it matters it is asked again
	found, err := c.disable(ctx, point, loops)
	if err != nil {
		return err
	}
	if _, err := askSwap(point, swapOrder{Do: swapDrop}); err != nil && !errors.Is(err, errNoKeeper) && found {
		return err
	}
	// One that was just being enabled when the hold came is there by now.
	if _, err := c.disable(ctx, point, loops); err != nil {
		return err
	}
	for _, loop := range loops {
		if err := host.DetachLoop(loop.Path); errors.Is(err, unix.EBUSY) {
			return busyLoop(point, loop)
		} else if err != nil {
			return err
		}
	}
	if err := Umount(point); err != nil {
		return err
	}
	return errors.Join(UndoGuards(point), os.Remove(point))
}

// swapOffOrphans ends swap whose mount is gone: what lay there is lost already,
// and the kernel ends whoever needed it.
func swapOffOrphans(point string) (found bool, err error) {
	state, err := openGuardState(guardStateDir)
	if err != nil {
		return false, err
	}
	gone, err := state.gone(point)
	loops, loopsErr := state.orphans(point) // there may be none, and still guards to put back
	state.close()
	if err = errors.Join(err, loopsErr); err != nil || !gone {
		return false, err
	}
	swaps, err := swapsOnAny(loops)
	if err != nil {
		return true, err
	}
	for _, s := range swaps {
		if err := host.SwapOff(s.Path); err != nil {
			return true, err
		}
	}
	for _, l := range loops {
		// One that was let go of detaches itself with its last user.
		if err := host.DetachLoop(l.Path); err != nil && !errors.Is(err, unix.ENXIO) {
			return true, err
		}
	}
	if err := UndoGuards(point); err != nil {
		return true, err
	}
	if err := os.Remove(point); err != nil && !errors.Is(err, os.ErrNotExist) {
		return true, err
	}
	return true, nil
}

// swapsOnAny lists the swaps that are on loop devices.
func swapsOnAny(loops []host.Loop) ([]host.Swap, error) {
	swaps, err := host.Swaps()
	return slices.DeleteFunc(swaps, func(s host.Swap) bool {
		return !slices.ContainsFunc(loops, func(l host.Loop) bool { return l.Path == s.Path })
	}), err
}

func usedOf(swaps []host.Swap) (used, size int64) {
	for _, s := range swaps {
		used, size = used+s.Used, size+s.Size
	}
	return used, size
}

// checkMemory refuses when memory, and swap elsewhere, cannot hold what is
// swapped out here.
func (c *SwapOffConfig) checkMemory(point string, swaps []host.Swap) error {
	used, size := usedOf(swaps)
	if c.Force || used == 0 {
		return nil
	}
	m, err := host.ReadMemory()
	if err != nil {
		return err
	}
	var status MemoryStat
	text, err := os.ReadFile(filepath.Join(point, blockDir, "zram0", "mm_stat"))
	if err == nil {
		columns(string(text), &status.OrigDataSize, &status.ComprDataSize, &status.MemUsedTotal)
	}
	elsewhere := m.SwapFree - (size - used)
	if missing := missingMemory(used, status.MemUsedTotal, m.Available, elsewhere); missing > 0 {
		return Errorf(CodeBusy, "%s are swapped out, and memory has room for %s (swap elsewhere for %s more): %s are missing; "+
			"end programs, or add swap, or go on with --force, and the kernel may kill programs",
			HumanSize(used), HumanSize(m.Available), HumanSize(max(elsewhere, 0)), HumanSize(missing))
	}
	return nil
}

// missingMemory is how much memory is missing to bring used bytes back, which
// are stored in so many. The store gives back what it takes, but only as whole
// clusters of slots become free, so a quarter of it is not counted on; and the
// machine needs something to go on with.
func missingMemory(used, stored, available, elsewhere int64) int64 {
	return used + used/32 - (available + max(elsewhere, 0) + stored/4*3)
}

const (
	// progressTime is how often progress is told, and the hold renewed.
	progressTime = 500 * time.Millisecond
)

// hold has the keeper enable nothing for a while.
func hold(point string) error {
	_, err := askSwap(point, swapOrder{Do: swapHold})
	if errors.Is(err, errNoKeeper) {
		return nil // then it enables nothing either
	}
	return err
}

// free ends a hold.
func free(point string) error {
	_, err := askSwap(point, swapOrder{Do: swapFree})
	if errors.Is(err, errNoKeeper) {
		return nil
	}
	return err
}

// disable disables swaps until there are none on the loop devices, and says
// whether there were any.
func (c *SwapOffConfig) disable(ctx context.Context, point string, loops []host.Loop) (found bool, err error) {
	for {
		swaps, err := swapsOnAny(loops)
		if err != nil || len(swaps) == 0 {
			return found, err
		}
		found = true
		if err := c.checkMemory(point, swaps); err != nil {
			return found, errors.Join(err, free(point))
		}
		if err := c.returnPages(ctx, point, swaps); err != nil {
			return found, err
		}
	}
}

// returnPages disables the swaps, the one with the fewest pages first.
func (c *SwapOffConfig) returnPages(ctx context.Context, point string, swaps []host.Swap) error {
	slices.SortFunc(swaps, func(a, b host.Swap) int { return cmp.Compare(a.Used, b.Used) })
	total, _ := usedOf(swaps)
	if err := hold(point); err != nil {
		return err
	}
	done := make(chan error, 1)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		var err error
		for _, s := range swaps {
			if err = host.SwapOffContext(ctx, s.Path); err != nil {
				break
			}
			forget(s.Path)
		}
		done <- err
	}()
	ticker := time.NewTicker(progressTime)
	defer ticker.Stop()
	for {
		select {
		case err := <-done:
			return c.ended(ctx, point, swaps, total, err)
		case <-ticker.C:
			left, err := usedNow(swaps)
			if err == nil && c.Progress != nil {
				c.Progress(max(total-left, 0), total)
			}
			_ = hold(point) // the next one will do
		}
	}
}

// forget gives back what the store still holds of a device that is swap no
// more, which the next one's pages may need: the kernel discards free slots
// only where 256 neighbours are free, and nothing at swapoff. The first page
// stays: it says that this can be swap again.
func forget(device string) {
	_ = host.DiscardDevice(device, pageSize) // what stays goes with the mount
}

// usedNow is how much of the swaps is in use now.
func usedNow(swaps []host.Swap) (int64, error) {
	now, err := host.Swaps()
	used, _ := usedOf(slices.DeleteFunc(now, func(s host.Swap) bool {
		return !slices.ContainsFunc(swaps, func(o host.Swap) bool { return o.Path == s.Path })
	}))
	return used, err
}

// ended says how disabling went. If not all of it went well, what is left is
// swap as before.
func (c *SwapOffConfig) ended(ctx context.Context, point string, swaps []host.Swap, total int64, err error) error {
	if err == nil {
		return nil
	}
	left, lookErr := usedNow(swaps)
	state := fmt.Sprintf("%s of %s are back in memory, the rest stays swap", HumanSize(max(total-left, 0)), HumanSize(total))
	switch {
	case ctx.Err() != nil:
		err = &Error{CodeBusy, "swapoff was interrupted: " + state + "; another swapoff goes on from there", nil}
	case errors.Is(err, unix.ENOMEM):
		err = &Error{CodeBusy, "memory cannot hold what is swapped out: " + state + "; end programs first", err}
	}
	return errors.Join(err, lookErr, free(point))
}
