package blockdev

// Device is a disk.
type Device struct{}

// ID is the N of zramN.
func (d *Device) ID() int { return 0 }

// Size is the disk's size in bytes, 0 before it is set.
func (d *Device) Size() int64 { return 0 }

// Open counts an opener; ErrBusy during a reset.
func (d *Device) Open() error { return nil }

// Close takes an opener back.
func (d *Device) Close() {}

// Submit starts a request. parked: Done answers it later.
func (d *Device) Submit(r *Request) (n int, parked bool, err error) { return 0, false, ErrInvalid }

// Check walks everything.
func (d *Device) Check() error { return nil }

// Attributes is the attribute table.
func Attributes() []Attribute { return nil }

// Set is the zram-control class.
type Set struct{}

// HotAdd makes a device and returns its id.
func (s *Set) HotAdd() (int, error) { return 0, ErrInvalid }

// HotRemove resets and removes a device that is not open.
func (s *Set) HotRemove(id int) error { return ErrNoDevice }

// Device finds a device by id, nil if there is none.
func (s *Set) Device(id int) *Device { return nil }

// Devices lists the devices by id.
func (s *Set) Devices() []*Device { return nil }

// Close ends all devices.
func (s *Set) Close() error { return nil }
