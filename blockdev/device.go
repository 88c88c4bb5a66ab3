package blockdev

import (
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/zramfs/zramfs/compress"
	"github.com/zramfs/zramfs/internal/shm"
	"github.com/zramfs/zramfs/stable"
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

	disk atomic.Pointer[disk]
}

// settings are what can be stored before the disk's size, and what reset puts
// back.
type settings struct {
	params      compress.Params
	policy      stable.Policy
	writeBehind int   // frames
	limit       int64 // bytes
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
	return int64(k.table.slots) * PageSize
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
	if d.disk.Load() != nil {
		return fmt.Errorf("%s has a size already; reset it first: %w", d.Name(), ErrBusy)
	}
	if bytes <= 0 || bytes > MaxSize {
		return fmt.Errorf("disk size %d: need 1 byte to 16 TiB: %w", bytes, ErrInvalid)
	}
	k, err := createDisk(d.set.cfg.Source, d.Name(), options{
		size:        roundUp(bytes, PageSize),
		streams:     d.set.cfg.Streams,
		frames:      d.next.writeBehind,
		params:      d.next.params,
		policy:      d.next.policy,
		limit:       d.next.limit,
		reserveLow:  d.set.cfg.ReserveLow,
		reserveHigh: d.set.cfg.ReserveHigh,
		faults:      d.set.cfg.faults,
	})
	if err != nil {
		return err
	}
	if err := k.start(); err != nil {
		k.close()
		d.set.cfg.Source.Drop(d.Name(), k.region)
		return err
	}
	d.disk.Store(k)
	return nil
}

// Reset frees the disk and puts the settings back. ErrBusy while it is open.
func (d *Device) Reset() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.resetLocked()
}

func (d *Device) resetLocked() error {
	if d.openers > 0 {
		return fmt.Errorf("%s is open %d times: %w", d.Name(), d.openers, ErrBusy)
	}
	d.next = d.set.cfg.Settings()
	k := d.disk.Load()
	if k == nil {
		return nil
	}
	k.gate.shut()
	d.disk.Store(nil)
	k.users.shut()
	k.close()
	d.set.cfg.Source.Drop(d.Name(), k.region)
	return nil
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
	k.gate.shut()
	k.quiet.Lock()
	err := k.check()
	k.quiet.Unlock()
	k.gate.open()
	k.upkeep.poke()
	return err
}
