package blockdev

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/zramfs/zramfs/compress"
	"github.com/zramfs/zramfs/internal/policy"
	"github.com/zramfs/zramfs/pool"
	"github.com/zramfs/zramfs/stable"
)

// maxDevices bounds what hot_add can make.
const maxDevices = 256

// Config is what a set of devices is made with. Immutable once used.
type Config struct {
	Source  RegionSource
	Backing BackingSource // nil: there are no backing devices
	Streams int           // one per CPU

	// Defaults of a new or reset device.
	Algorithm   compress.Params
	Recompress  [3]compress.Params // of priorities 1 to 3; no Codec: none
	Policy      stable.Policy
	WriteBehind int   // frames; 0: off
	MemLimit    int64 // bytes; 0: none
	Rules       policy.Rules
	LimitPolicy string // as limit_policy reads it; "": climb every rung, and wait for LimitWait

	// Reach is how many bytes a disk can grow to at least; eight times its first
	// size is always possible. It costs addresses, no memory. Negative: disks
	// keep their size, and need no addresses.
	Reach int64

	// Ledger is LedgerBytes of memory that outlives this process, all zero at
	// first: which devices there are, and their settings. nil: it ends with
	// the set. Two sets never change one ledger at a time.
	Ledger []byte

	// Bytes of populated free memory that upkeep keeps ready.
	ReserveLow, ReserveHigh int64

	// RoomWait bounds how long a write waits for memory that the machine does
	// not give at the moment; then it gets ErrNoSpace, and the old content
	// stays. 0: DefaultRoomWait. LimitWait is the same for room under the
	// memory limit, and goes into the default limit_policy; 0: 100 ms,
	// less: it does not wait for that.
	RoomWait, LimitWait time.Duration

	// Machine tells the policies how the machine is, once in a second for each
	// disk; nil: nobody knows.
	Machine func() policy.Machine

	// UpkeepThread is called on the thread that commits memory and sees to those
	// who wait for it: when it starts, and when it is about to take memory from
	// the kernel (taking) and has; nil: it is a thread like others.
	UpkeepThread func(taking bool)

	// ReadDictionary reads the file that algorithm_params names, or says why it
	// cannot; no more than limit bytes are of use. nil: there are no dictionaries.
	ReadDictionary func(path string, limit int64) ([]byte, error)

	// Extra rows of the attribute table: facts of the process.
	Extra []Attribute
	// Memory appends to memory_stat what the processes take, "name value" a
	// line; nil: nothing to add.
	Memory func(b []byte) ([]byte, error)

	faults *faults // nil but in this package's tests
}

// Settings gives the defaults.
func (c *Config) Settings() settings {
	ladder, err := parseLimitPolicy(c.LimitPolicy)
	if c.LimitPolicy == "" || err != nil { // which NewSet has refused
		ladder = defaultLimitPolicy(c.LimitWait)
	}
	return settings{params: c.Algorithm, recomp: c.Recompress, policy: c.Policy, writeBehind: c.WriteBehind, limit: roundLimit(c.MemLimit),
		ladder: ladder, rules: c.Rules}
}

// Set is the zram-control class: the devices of one mount, by number.
//
// Invariant: a device in the set was never removed; a removed one keeps its
// number free for the next hot_add.
type Set struct {
	cfg    Config // immutable
	ledger ledger // immutable; its contents see there

	mu      sync.Mutex
	devices map[int]*Device // guarded by mu
}

// NewSet makes a set without devices.
func NewSet(cfg Config) (*Set, error) {
	if cfg.Source == nil || cfg.Streams < 1 || cfg.Streams > maxLanes {
		return nil, fmt.Errorf("devices need a source of memory and 1 to %d streams, not %d: %w", maxLanes, cfg.Streams, ErrInvalid)
	}
	if cfg.Algorithm.Codec == "" {
		p, err := compress.ParseAlgorithm(compress.Codecs()[0])
		if err != nil {
			return nil, err
		}
		cfg.Algorithm = p
	}
	if cfg.ReserveHigh == 0 {
		cfg.ReserveLow, cfg.ReserveHigh = DefaultReserveLow, DefaultReserveHigh
	}
	if cfg.RoomWait == 0 {
		cfg.RoomWait = DefaultRoomWait
	}
	if cfg.LimitPolicy != "" {
		if _, err := parseLimitPolicy(cfg.LimitPolicy); err != nil {
			return nil, err
		}
	}
	s := cfg.Settings()
	if _, err := s.govern(cfg.Rules); err != nil {
		return nil, err
	}
	cfg.Recompress = s.recomp // with what the policy brings
	if cfg.Ledger == nil {
		cfg.Ledger = make([]byte, LedgerBytes)
	}
	l, err := openLedger(cfg.Ledger)
	if err != nil {
		return nil, err
	}
	return &Set{cfg: cfg, ledger: l, devices: make(map[int]*Device)}, nil
}

// DefaultRoomWait is long enough for a kernel that is just freeing memory.
const DefaultRoomWait = 100 * time.Millisecond

// Defaults of the populated reserve, in bytes.
const (
	DefaultReserveLow  = 8 << 20
	DefaultReserveHigh = 16 << 20
)

// CommitStep is the most bytes that upkeep commits at a time.
const CommitStep = pool.CommitStep

// HotAdd makes a device without a size and gives the lowest free number.
func (s *Set) HotAdd() (int, error) { return s.HotAddAs(func(int) {}) }

// HotAddAs is HotAdd that tells the number before the device is made.
func (s *Set) HotAddAs(note func(id int)) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id := range maxDevices {
		if s.devices[id] == nil {
			note(id)
			d := &Device{id: id, set: s, next: s.cfg.Settings()}
			if err := s.ledger.publish(id, record{exists: true, settings: d.next}); err != nil {
				return 0, fmt.Errorf("hot_add: %w", err)
			}
			s.devices[id] = d
			return id, nil
		}
	}
	return 0, fmt.Errorf("hot_add: %d devices exist already: %w", maxDevices, ErrNoSpace)
}

// HotRemove resets and removes a device. ErrBusy while it is open, ErrNoDevice
// if there is none of that number, ErrInvalid for a negative one. Other
// devices are found while it waits for the last requests of this one.
func (s *Set) HotRemove(id int) error {
	if id < 0 {
		return fmt.Errorf("hot_remove %d: %w", id, ErrInvalid)
	}
	d := s.Device(id)
	if d == nil {
		return fmt.Errorf("hot_remove %d: %w", id, ErrNoDevice)
	}
	if err := d.remove(); err != nil {
		return fmt.Errorf("hot_remove %d: %w", id, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.devices, id)
	return nil
}

// Device finds a device by number, nil if there is none.
func (s *Set) Device(id int) *Device {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.devices[id]
}

// Devices lists the devices by number.
func (s *Set) Devices() []*Device {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]*Device, 0, len(s.devices))
	for _, d := range s.devices {
		all = append(all, d)
	}
	slices.SortFunc(all, func(a, b *Device) int { return a.id - b.id })
	return all
}

// Streams is how many streams a device has; Request.Stream is below it.
func (s *Set) Streams() int { return s.cfg.Streams }

// Attributes is the attribute table of this set: the built-in rows, then the
// configured ones.
func (s *Set) Attributes() []Attribute {
	return append(Attributes(), s.cfg.Extra...)
}

// Close ends every device and its disk, whoever has it open: late closes are
// still welcome. No request is under way.
func (s *Set) Close() error {
	for _, d := range s.Devices() {
		if err := d.end(); err != nil {
			return err
		}
	}
	return nil
}
