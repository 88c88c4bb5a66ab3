package blockdev

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// A check beside the I/O reads every page in steps, each page under its slot's
// lock, and keeps to a rate. At the end it stops I/O for as long as it takes to
// compare the tables with each other, which reads no page: some tens of milliseconds
// for each gibibyte.

const (
	checkStep = 32               // pages between two looks at the clock
	checkRate = 1024             // MiB of pages a second, unless it is told
	checkRest = time.Millisecond // at least, after that much work: others want the CPU, too
)

// checking is the progress of the check that runs.
type checking struct {
	one         sync.Mutex   // held by who checks; never waited for
	running     atomic.Bool  //
	done, total atomic.Int64 // pages
}

// Inspect is Check beside the I/O, at so many MiB of pages a second. ErrAgain:
// another one runs.
func (d *Device) Inspect(ctx context.Context, rate int64) error {
	k := d.hold()
	if k == nil {
		return nil
	}
	if !k.checking.one.TryLock() {
		k.letGo()
		return fmt.Errorf("check: another check of %s runs: %w", d.Name(), ErrAgain)
	}
	defer k.checking.one.Unlock()
	r := &report{}
	k.checking.done.Store(0)
	k.checking.total.Store(sumLanes(k.lanes).pages)
	k.checking.running.Store(true)
	defer k.checking.running.Store(false)
	err := k.inspectPages(ctx, r, rate)
	k.letGo()
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.disk.Load() != k {
		return fmt.Errorf("check: %s was reset meanwhile: %w", d.Name(), ErrNoDevice)
	}
	since := time.Now()
	return d.quiet(k, func() error {
		tables := k.checkTables(r)
		r.stood = time.Since(since)
		return k.conclude(r, r.damage(), tables)
	})
}

// quiet does f while no request and no background step runs on the disk. Caller
// holds mu.
func (d *Device) quiet(k *disk, f func() error) error {
	k.gate.shut()
	k.quiet.Lock()
	err := f()
	k.quiet.Unlock()
	k.reopen()
	return err
}

// inspectPages reads every page, and ends early with ctx's error.
func (k *disk) inspectPages(ctx context.Context, r *report, rate int64) error {
	page, rest := make([]byte, PageSize), time.NewTimer(0)
	defer rest.Stop()
	began, worked, read := time.Now(), time.Now(), int64(0)
	for next := uint64(0); next < k.table.slots(); {
		next = k.walkSome(next, checkStep, func(slot uint64, w word) {
			read++
			if err := k.inspectSlot(slot, w, page); err != nil {
				r.found(slot, err)
			}
		})
		k.checking.done.Store(read)
		ahead := atRate(read, rate) - time.Since(began)
		if ahead < checkRest && time.Since(worked) < checkRest && ctx.Err() == nil {
			continue
		}
		rest.Reset(max(ahead, checkRest/4))
		select {
		case <-ctx.Done():
			return fmt.Errorf("check: after %d pages: %w", read, ctx.Err())
		case <-rest.C:
		}
		worked = time.Now()
	}
	return nil
}

// inspectSlot reads a whole page, if it is here. Caller holds the slot's lock.
func (k *disk) inspectSlot(slot uint64, w word, page []byte) error {
	if w.state() == backed {
		return k.verifySlot(slot, w, page)
	}
	return k.readLocked(0, slot, w, 0, page)
}

// parseCheck reads what is stored in the attribute check: "1", "rate=MIB", or
// "strict", which stops I/O for the whole time.
func parseCheck(value string) (rate int64, strict bool, err error) {
	value = strings.TrimSpace(value)
	text, ok := strings.CutPrefix(value, "rate=")
	switch {
	case ok:
		rate, err = parseCount("check rate", text, 1, maxScrub)
		return rate, false, err
	case value == "1":
		return checkRate, false, nil
	case value == "strict":
		return 0, true, nil
	}
	return 0, false, fmt.Errorf("check %q: need 1, rate=MIB or strict: %w", value, ErrInvalid)
}

func storeCheck(ctx context.Context, d *Device, value string) error {
	rate, strict, err := parseCheck(value)
	switch {
	case err != nil:
		return err
	case strict:
		return d.Check()
	}
	return d.Inspect(ctx, rate)
}

// showCheck tells how far a check is, and what the last one found.
func showCheck(d *Device, b []byte) ([]byte, error) {
	k := d.disk.Load()
	if k == nil {
		return b, nil
	}
	if k.checking.running.Load() {
		b = fmt.Appendf(b, "checked %d\nof %d\n", k.checking.done.Load(), k.checking.total.Load())
	}
	if r := k.checked.Load(); r != nil {
		b = r.append(b)
	}
	return b, nil
}
