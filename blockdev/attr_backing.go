package blockdev

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// backingAttributes: the backing device and how it is used. Writeback itself is
// beside them.
func backingAttributes() []Attribute {
	show := func(value func(s *backingConfig) int64) func(d *Device, b []byte) ([]byte, error) {
		return func(d *Device, b []byte) ([]byte, error) {
			d.mu.Lock()
			defer d.mu.Unlock()
			return fmt.Appendf(b, "%d\n", value(&d.next.backing)), nil
		}
	}
	truth := func(value func(s *backingConfig) bool) func(d *Device, b []byte) ([]byte, error) {
		return show(func(s *backingConfig) int64 {
			if value(s) {
				return 1
			}
			return 0
		})
	}
	return []Attribute{
		{
			Dir: DirBlock, Name: "backing_dev", Mode: 0o644,
			Help: "block device or file that pages are written back to, or none; PATH size=SIZE makes a file; before disksize only",
			Show: func(d *Device, b []byte) ([]byte, error) {
				d.mu.Lock()
				defer d.mu.Unlock()
				if d.next.backing.path == "" {
					return append(b, "none\n"...), nil
				}
				return append(b, d.next.backing.path+"\n"...), nil
			},
			Store: storeBackingDev,
		},
		writebackAttribute(),
		{
			Dir: DirBlock, Name: "writeback_limit", Mode: 0o644,
			Help: "how many blocks of 4 KiB may still be written back, if writeback_limit_enable is 1",
			Show: func(d *Device, b []byte) ([]byte, error) {
				d.mu.Lock()
				n := d.next.backing.budget
				d.mu.Unlock()
				if k := d.hold(); k != nil {
					defer k.letGo()
					if k.back != nil {
						n = k.back.kept.budget.Load()
					}
				}
				return fmt.Appendf(b, "%d\n", n), nil
			},
			Store: func(d *Device, value string) error {
				n, err := parseUnsigned("writeback_limit", value, math.MaxInt64)
				if err != nil {
					return err
				}
				return d.changeBacking(func(s *backingConfig) { s.budget = n },
					func(b *backing) { b.rebudget(func() { b.kept.budget.Store(n) }) })
			},
		},
		{
			Dir: DirBlock, Name: "writeback_limit_enable", Mode: 0o644,
			Help: "1 lets writeback write only as much as writeback_limit says; 0 sets no limit",
			Show: truth(func(s *backingConfig) bool { return s.limited }),
			Store: func(d *Device, value string) error {
				n, err := parseUnsigned("writeback_limit_enable", value, math.MaxInt64)
				if err != nil {
					return err
				}
				return d.changeBacking(func(s *backingConfig) { s.limited = n != 0 },
					func(b *backing) { b.rebudget(func() {}) })
			},
		},
		{
			Dir: DirBlock, Name: "writeback_batch_size", Mode: 0o644,
			Help: "most blocks of 4 KiB that are written back at once, 1 to 1024",
			Show: show(func(s *backingConfig) int64 { return int64(s.live().batch) }),
			Store: func(d *Device, value string) error {
				n, err := parseUnsigned("writeback_batch_size", value, math.MaxUint32)
				if err == nil && n == 0 {
					err = fmt.Errorf("writeback_batch_size 0: need 1 or more: %w", ErrInvalid)
				}
				if err != nil {
					return err
				}
				return d.changeBacking(func(s *backingConfig) { s.batch = int(min(n, maxBatch)) }, nil)
			},
		},
		{
			Dir: DirBlock, Name: "compressed_writeback", Mode: 0o644,
			Help: "1 writes compressed bytes back, packed, so that they take less of the device; before disksize only",
			Show: truth(func(s *backingConfig) bool { return s.packed }),
			Store: func(d *Device, value string) error {
				on, err := parseBool("compressed_writeback", value)
				if err != nil {
					return err
				}
				return d.configure("compressed_writeback", func(s *settings) { s.backing.packed = on })
			},
		},
		{
			Dir: DirZramfs, Name: "writeback_plain", Mode: 0o644,
			Help: "1 writes back without encryption; before disksize only",
			Show: truth(func(s *backingConfig) bool { return s.plain }),
			Store: func(d *Device, value string) error {
				on, err := parseBool("writeback_plain", value)
				if err != nil {
					return err
				}
				return d.configure("writeback_plain", func(s *settings) { s.backing.plain = on })
			},
		},
		{
			Dir: DirZramfs, Name: "writeback_promote", Mode: 0o644,
			Help: "a page that is read back twice within so many seconds comes back to RAM; 0: none does",
			Show: show(func(s *backingConfig) int64 { return int64(s.live().promote) }),
			Store: func(d *Device, value string) error {
				n, err := parseUnsigned("writeback_promote", value, math.MaxUint32-1)
				if err != nil {
					return err
				}
				return d.changeBacking(func(s *backingConfig) { s.promote = n + 1 }, nil)
			},
		},
		{
			Dir: DirBlock, Name: "bd_stat", Mode: 0o444,
			Help: "bd_count bd_reads bd_writes, in blocks of 4 KiB",
			Show: func(d *Device, b []byte) ([]byte, error) {
				s := d.Backing()
				return fmt.Appendf(b, "%8d %8d %8d\n", s.Used, s.Reads, s.Writes), nil
			},
		},
		{
			Dir: DirZramfs, Name: "backing_stat", Mode: 0o444,
			Help: "the backing device: its blocks, requests that wait for it, pages that came back to RAM, errors",
			Show: func(d *Device, b []byte) ([]byte, error) {
				s := d.Backing()
				return fmt.Appendf(b, "blocks %d\nused %d\nencrypted %d\nwaiting %d\npromoted %d\nread_errors %d\nwrite_errors %d\ndamaged %d\n",
					s.Blocks, s.Used, s.Encrypted, s.Waiting, s.Promoted, s.ReadErrors, s.WriteErrors, s.Damaged), nil
			},
		},
	}
}

// BackingStat tells of the backing device. Blocks are 4 KiB.
type BackingStat struct {
	Blocks, Used  int64 // what there are, and hold something; Blocks 0: there is no device
	Reads, Writes int64 // blocks, since the disk was made
	Encrypted     int64 // 1: yes
	Waiting       int64 // requests
	Promoted      int64 // pages
	ReadErrors    int64
	WriteErrors   int64
	Damaged       int64 // pages that were not what was written
	Budget        int64 // blocks that may be written, if Limited
	Limited       bool
}

// Backing takes a look at the backing device.
func (d *Device) Backing() (s BackingStat) {
	k := d.hold()
	if k == nil {
		return s
	}
	defer k.letGo()
	b := k.back
	if b == nil {
		return s
	}
	s = BackingStat{
		Blocks: int64(b.blocks.n), Used: b.blocks.used.Load(), Reads: b.kept.reads.Load(), Writes: b.kept.writes.Load(),
		Waiting: b.away.count(), Promoted: b.kept.promoted.Load(), ReadErrors: b.kept.readErrors.Load(),
		WriteErrors: b.kept.writeErrors.Load(), Damaged: b.kept.damaged.Load(),
		Budget: b.kept.budget.Load(), Limited: b.settings.Load().limited,
	}
	if b.key != nil {
		s.Encrypted = 1
	}
	return s
}

// HasBacking says whether the device has a backing device open.
func (d *Device) HasBacking() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.backing != nil
}

// storeBackingDev opens the device. An older one that was stored before is let go.
func storeBackingDev(d *Device, value string) error {
	path, create, err := parseBacking(trim(value))
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.gone:
		return fmt.Errorf("%s: %w", d.Name(), ErrNoDevice)
	case d.disk.Load() != nil:
		return fmt.Errorf("backing_dev: %s has a size already; reset it first: %w", d.Name(), ErrBusy)
	case d.set.cfg.Backing == nil:
		return fmt.Errorf("backing_dev: this process opens no backing devices: %w", ErrInvalid)
	}
	s := d.next
	if path == s.backing.path && create == 0 && (path == "" || d.backing != nil) {
		return nil // else it is a setting whose device could not be adopted
	}
	if s.backing.path = ""; d.backing != nil || path == "" {
		if err := d.publish(s, false); err != nil {
			return err
		}
		d.next = s
		d.dropBacking()
	}
	if path == "" {
		return nil
	}
	s.backing.path = path
	b, err := d.set.cfg.Backing.OpenBacking(d.Name(), path, create)
	if err != nil {
		return fmt.Errorf("backing_dev: %w", err)
	}
	if err := d.publish(s, false); err != nil {
		d.set.cfg.Backing.DropBacking(d.Name(), b)
		return err
	}
	d.next, d.backing = s, b
	return nil
}

// parseUnsigned reads a decimal number from 0 on, as the kernel does.
func parseUnsigned(what, value string, top uint64) (int64, error) {
	n, err := strconv.ParseUint(trim(value), 0, 64)
	if errors.Is(err, strconv.ErrRange) || err == nil && n > top {
		return 0, fmt.Errorf("%s %q: need a number from 0 to %d: %w", what, trim(value), top, ErrRange)
	}
	if err != nil {
		return 0, fmt.Errorf("%s %q: need a number from 0 to %d: %w", what, trim(value), top, ErrInvalid)
	}
	return int64(n), nil
}

// parseBool reads what the kernel's kstrtobool does.
func parseBool(what, value string) (bool, error) {
	switch v := strings.ToLower(trim(value)); {
	case v == "1" || strings.HasPrefix(v, "y") || strings.HasPrefix(v, "t") || v == "on":
		return true, nil
	case v == "0" || strings.HasPrefix(v, "n") || strings.HasPrefix(v, "f") || v == "off" || v == "of":
		return false, nil
	}
	return false, fmt.Errorf("%s %q: need 1 or 0: %w", what, trim(value), ErrInvalid)
}
