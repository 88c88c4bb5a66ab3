package blockdev

import (
	"fmt"
	"math"
	"strings"
)

// backingConfig are the settings of the backing device.
type backingConfig struct {
	path    string // "": there is none
	packed  bool   // write compressed bytes, packed
	plain   bool   // do not encrypt
	limited bool
	budget  int64 // blocks; of a disk that serves, what was stored last
	batch   int   // blocks; 0: the default
	promote int64 // seconds and one; 0: the default
}

// promoteWithin is the default: a page that is read back twice within so many
// seconds comes back to RAM.
const promoteWithin = 60

// live gives what a disk goes by.
func (c *backingConfig) live() backSettings {
	s := backSettings{packed: c.packed, limited: c.limited, batch: c.batch, promote: promoteWithin}
	if s.batch == 0 {
		s.batch = defaultBatch
	}
	if c.promote != 0 {
		s.promote = uint32(c.promote - 1)
	}
	return s
}

// maxBackingPath bounds the path, which has to fit into the ledger beside the
// other settings.
const maxBackingPath = 200

func backingSettings() []setting {
	flag := func(key string, at func(*settings) *bool) setting {
		return numberSetting(key, 1, func(s *settings) int64 {
			if *at(s) {
				return 1
			}
			return 0
		}, func(s *settings, n int64) { *at(s) = n == 1 })
	}
	return []setting{
		{"backing_dev", func(s *settings) string { return s.backing.path },
			func(s *settings, value string) error { s.backing.path = value; return nil }},
		flag("writeback_packed", func(s *settings) *bool { return &s.backing.packed }),
		flag("writeback_plain", func(s *settings) *bool { return &s.backing.plain }),
		flag("writeback_limited", func(s *settings) *bool { return &s.backing.limited }),
		numberSetting("writeback_budget", math.MaxInt64,
			func(s *settings) int64 { return s.backing.budget }, func(s *settings, n int64) { s.backing.budget = n }),
		numberSetting("writeback_batch", maxBatch,
			func(s *settings) int64 { return int64(s.backing.batch) }, func(s *settings, n int64) { s.backing.batch = int(n) }),
		numberSetting("writeback_promote", math.MaxUint32,
			func(s *settings) int64 { return s.backing.promote }, func(s *settings, n int64) { s.backing.promote = n }),
	}
}

// changeBacking changes a setting, and tells the disk; more does what else is
// to be done there.
func (d *Device) changeBacking(change func(*backingConfig), more func(*backing)) error {
	return d.change(func(s *settings) error { change(&s.backing); return nil }, func(k *disk) {
		if k.back == nil {
			return
		}
		s := d.next.backing.live()
		k.back.settings.Store(&s)
		if more != nil {
			more(k.back)
		}
	})
}

// parseBacking reads "PATH", "PATH size=SIZE" or "none".
func parseBacking(value string) (path string, create int64, err error) {
	path = strings.TrimSpace(value)
	if i := strings.LastIndex(path, " size="); i >= 0 {
		if create, err = parseSize(path[i+len(" size="):]); err != nil {
			return "", 0, fmt.Errorf("backing_dev: %w", err)
		}
		if create == 0 {
			return "", 0, fmt.Errorf("backing_dev: size 0: need a size above 0, or none for a device that is there: %w", ErrInvalid)
		}
		path = strings.TrimSpace(path[:i])
	}
	switch {
	case path == "none" && create == 0:
		return "", 0, nil
	case path == "":
		return "", 0, fmt.Errorf("backing_dev: need a path, or none: %w", ErrInvalid)
	case strings.ContainsAny(path, "\n\x00"):
		return "", 0, fmt.Errorf("backing_dev %q: a path of one line is needed: %w", path, ErrInvalid)
	case len(path) > maxBackingPath:
		return "", 0, fmt.Errorf("backing_dev: a path of %d bytes, at most %d are kept; use a shorter link to it: %w", len(path),
			maxBackingPath, ErrTooBig)
	}
	return path, create, nil
}

// dropBacking lets the device go, if there is one. Caller holds mu.
func (d *Device) dropBacking() {
	if d.backing != nil {
		d.set.cfg.Backing.DropBacking(d.Name(), d.backing)
		d.backing = nil
	}
}

// adoptBacking takes over the device that the settings name. Without it the disk
// serves what is in RAM.
func (d *Device) adoptBacking() {
	if d.next.backing.path == "" || d.set.cfg.Backing == nil {
		return
	}
	if b, err := d.set.cfg.Backing.AdoptBacking(d.Name()); err == nil {
		d.backing = b
	}
}
