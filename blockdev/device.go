package blockdev

import (
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/zramfs/zramfs/internal/invariants"
	"github.com/zramfs/zramfs/internal/shm"
)

// RegionSource makes the shared memory of disks, and hears when a disk is
// done with its region, which it then closes.
type RegionSource interface {
	Create(name string, size int64) (*shm.Region, error)
	Drop(name string, r *shm.Region)
}

// Device is zramN: its settings, and the disk once its size is set.
//
// Invariants: disk is nil before disksize is stored and after reset. Openers
// are counted under mu, so a reset never meets one.
type Device struct {
	id  int  // immutable
	set *Set // immutable

	mu      sync.Mutex
	openers int      // guarded by mu
	gone    bool     // guarded by mu; hot_remove has taken it
	next    settings // guarded by mu; what the next disk is made with

	backing Backing // guarded by mu; what the path in next is; nil: none

	disk atomic.Pointer[disk]
}

// ID is the N of zramN.
func (d *Device) ID() int { return d.id }

// Name is "zramN".
func (d *Device) Name() string { return fmt.Sprintf("zram%d", d.id) }

// Size is the disk's size in bytes, 0 before it is set.
func (d *Device) Size() int64 {
	k := d.disk.Load()
	if k == nil {
		return 0
	}
	return int64(k.table.slots()) * PageSize
}

// hold gives the disk to a control operation; a reset waits until letGo. nil if
// there is none. Who holds a disk must not take Device.mu.
func (d *Device) hold() *disk {
	if k := d.disk.Load(); k != nil && k.users.enter(0) {
		return k
	}
	return nil
}

func (k *disk) letGo() { k.users.leave(0) }

// Open counts an opener. ErrNoDevice if the device was removed.
func (d *Device) Open() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.gone {
		return fmt.Errorf("open %s: %w", d.Name(), ErrNoDevice)
	}
	d.openers++
	return nil
}

// Close takes an opener back.
func (d *Device) Close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.openers == 0 {
		panic("blockdev: Close without Open")
	}
	d.openers--
}

// Submit starts a request. parked: Done answers it later, once, from another
// goroutine; else n and err are the answer and Done is not called. n counts
// bytes; a write that begins at the end of the disk gets ErrNoSpace, a read
// there 0 bytes.
func (d *Device) Submit(r *Request) (n int, parked bool, err error) {
	k := d.disk.Load()
	if k == nil {
		return 0, false, ErrNotReady
	}
	return k.submit(r)
}

// SetSize initialises the disk: bytes is rounded up to a page. ErrBusy if it
// is initialised already.
func (d *Device) SetSize(bytes int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.gone {
		return fmt.Errorf("%s: %w", d.Name(), ErrNoDevice)
	}
	if bytes <= 0 || bytes > MaxSize {
		return fmt.Errorf("disk size %d: need 1 byte to 16 TiB: %w", bytes, ErrInvalid)
	}
	if d.disk.Load() != nil {
		return fmt.Errorf("%s has a size already; reset it first: %w", d.Name(), ErrBusy)
	}
	if err := d.readDictionaries(&d.next); err != nil {
		return err
	}
	o := d.options()
	o.size = roundUp(bytes, PageSize)
	k, err := createDisk(d.set.cfg.Source, d.Name(), o)
	if err != nil {
		return err
	}
	if err = k.fillReserve(); err == nil {
		k.start()
		err = d.publish(d.next, true)
	}
	if err != nil {
		d.drop(k)
		return err
	}
	d.disk.Store(k)
	return nil
}

// options are what the disk is made with, but for its size. Caller holds mu, or has the device
// to itself.
func (d *Device) options() options {
	c := &d.set.cfg
	return options{
		reach:       c.Reach,
		streams:     c.Streams,
		frames:      d.next.writeBehind,
		params:      d.next.params,
		dict:        d.next.dicts[0],
		recomp:      d.next.secondaries(),
		policy:      d.next.policy,
		limit:       d.next.limit,
		reserveLow:  c.ReserveLow,
		reserveHigh: c.ReserveHigh,
		roomWait:    c.RoomWait,
		thread:      c.UpkeepThread,
		ladder:      d.next.ladder,
		rules:       d.next.rules,
		machine:     c.Machine,
		scrub:       d.next.scrub,
		faults:      c.faults,

		backing:      d.backing,
		backSettings: d.next.backing.live(),
		plain:        d.next.backing.plain,
		budget:       d.next.backing.budget,
	}
}

// publish makes settings, and whether there is a disk, what the next
// generation will find. Caller holds mu.
func (d *Device) publish(s settings, disk bool) error {
	return d.set.ledger.publish(d.id, record{exists: true, disk: disk, settings: s})
}

// Reset frees the disk and puts the settings back. ErrBusy while it is open.
func (d *Device) Reset() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.idle(); err != nil {
		return err
	}
	return d.resetLocked(record{exists: true, settings: d.set.cfg.Settings()})
}

// remove is Reset for good.
func (d *Device) remove() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.gone {
		return ErrNoDevice
	}
	if err := d.idle(); err != nil {
		return err
	}
	d.gone = true
	return d.resetLocked(record{})
}

// end is remove, open or not.
func (d *Device) end() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.gone = true
	return d.resetLocked(record{})
}

func (d *Device) idle() error {
	if d.openers > 0 {
		return fmt.Errorf("%s is open %d times: %w", d.Name(), d.openers, ErrBusy)
	}
	return nil
}

// resetLocked publishes r, which has no disk, and then takes the disk away.
func (d *Device) resetLocked(r record) error {
	if err := d.set.ledger.publish(d.id, r); err != nil {
		return err
	}
	d.next = d.set.cfg.Settings()
	defer d.dropBacking()
	k := d.disk.Load()
	if k == nil {
		return nil
	}
	k.end()
	k.gate.shut()
	d.disk.Store(nil)
	k.users.shut()
	d.drop(k)
	return nil
}

// drop ends a disk and gives its region back.
func (d *Device) drop(k *disk) {
	k.close()
	k.forget()
	invariants.CrashPoint("life.drop")
	d.set.cfg.Source.Drop(d.Name(), k.region)
}

// Check walks the whole disk and compares everything derived with the slot
// table. Requests that come meanwhile are parked until it is done.
func (d *Device) Check() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	k := d.disk.Load()
	if k == nil {
		return nil
	}
	return d.quiet(k, k.check)
}
