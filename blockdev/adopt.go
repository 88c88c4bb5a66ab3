package blockdev

import (
	"fmt"

	"github.com/zramfs/zramfs/internal/shm"
)

// Recovered is what Adopt found.
type Recovered struct {
	Devices   int
	Pages     int64 // that hold something
	Reclaimed int64 // objects that no slot named: about to be published, or to be freed
	Corrupt   int64 // pages whose word or object was found wrong
}

// Adopt makes again the devices that an earlier generation left: the ledger
// says which there are, and the region of a device's name holds its disk.
// Regions that belong to no disk, since they were half made or on their way
// out, go to RegionSource.Drop. The set owns the regions from here on, unless
// there is an error, which leaves the set empty and all of them as they are.
//
// It runs before anything else is done with the set. In a new ledger it finds
// nothing.
func (s *Set) Adopt(regions map[string]*shm.Region) (Recovered, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.devices) != 0 {
		return Recovered{}, fmt.Errorf("adopt: the set has devices already: %w", ErrBusy)
	}
	var total Recovered
	found := make(map[int]*Device)
	for id := range maxDevices {
		d, err := s.adoptDevice(id, regions, &total)
		if err != nil {
			for _, d := range found {
				d.abandon()
			}
			return Recovered{}, fmt.Errorf("adopt: %w", err)
		}
		if d != nil {
			found[id] = d
		}
	}
	s.devices = found
	total.Devices = len(found)
	for name, r := range regions {
		if !s.usesLocked(r) {
			s.cfg.Source.Drop(name, r)
		}
	}
	return total, nil
}

// adoptDevice makes one device again; nil if there is none of that number.
func (s *Set) adoptDevice(id int, regions map[string]*shm.Region, total *Recovered) (*Device, error) {
	r, err := s.ledger.read(id)
	if err != nil || !r.exists {
		return nil, err
	}
	d := &Device{id: id, set: s, next: r.settings}
	d.adoptBacking()
	if !r.disk {
		return d, nil
	}
	region := regions[d.Name()]
	if region == nil {
		return nil, fmt.Errorf("%s has a disk, but no region of that name was handed over: %w", d.Name(), ErrCorrupt)
	}
	k, err := adoptDisk(region, d.options())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", d.Name(), err)
	}
	k.start()
	d.disk.Store(k)
	total.Pages += sumLanes(k.lanes).pages
	total.Reclaimed += k.reclaimed
	total.Corrupt += k.damaged
	return d, nil
}

// Abandon ends what the set does, and leaves the disks and the ledger as they
// are, for the next generation to adopt: for a worker that cannot serve. The set
// is of no use afterwards.
func (s *Set) Abandon() {
	for _, d := range s.Devices() {
		d.abandon()
	}
}

// abandon ends a device's disk and leaves its region and record as they are.
func (d *Device) abandon() {
	if k := d.disk.Swap(nil); k != nil {
		k.gate.shut()
		k.close()
	}
}

func (s *Set) usesLocked(r *shm.Region) bool {
	for _, d := range s.devices {
		if k := d.disk.Load(); k != nil && k.region == r {
			return true
		}
	}
	return false
}

// Changes counts the changes of the ledger: each hot_add, hot_remove,
// disksize, reset or setting that succeeds is exactly one, at the moment when
// it takes effect.
func (s *Set) Changes() uint64 { return s.ledger.changes() }
