package blockdev

import (
	"errors"
	"fmt"

	"github.com/zramfs/zramfs/compress"
	"github.com/zramfs/zramfs/stable"
)

// codecAttributes: how pages are compressed, and what a write gets that meets
// the compressor.
func codecAttributes() []Attribute {
	return []Attribute{
		{
			Dir: DirBlock, Name: "comp_algorithm", Mode: 0o644,
			Help: "compression algorithm; reading lists all, the current one in brackets; before disksize only",
			Show: func(d *Device, b []byte) ([]byte, error) {
				d.mu.Lock()
				current := d.next.params.Codec
				d.mu.Unlock()
				return append(b, compress.List(current)+" \n"...), nil // a space at the end, as the kernel's
			},
			Store: storeAlgorithm,
		},
		{
			Dir: DirBlock, Name: "algorithm_params", Mode: 0o200,
			Help:  "parameters of the algorithm: level=N, algo=NAME, priority=0; before disksize only",
			Store: storeAlgorithmParams,
		},
		{
			Dir: DirZramfs, Name: "algorithm", Mode: 0o444,
			Help: "the algorithm with its level, as --algorithm takes it",
			Show: func(d *Device, b []byte) ([]byte, error) {
				d.mu.Lock()
				defer d.mu.Unlock()
				return fmt.Appendf(b, "%s\n", d.next.params), nil
			},
		},
		{
			Dir: DirZramfs, Name: "stable", Mode: 0o644,
			Help: "what a write gets that meets its page under compression: snapshot, wait or refuse",
			Show: func(d *Device, b []byte) ([]byte, error) {
				current := d.policy()
				for _, name := range stable.Policies() {
					if name == current.String() {
						name = "[" + name + "]"
					}
					b = fmt.Appendf(b, "%s ", name)
				}
				b[len(b)-1] = '\n'
				return b, nil
			},
			Store: func(d *Device, value string) error {
				p, err := stable.ParsePolicy(trim(value))
				if err != nil {
					return fmt.Errorf("%w: %w", ErrInvalid, err)
				}
				return d.change(func(s *settings) error { s.policy = p; return nil }, func(k *disk) { k.policy.Store(uint32(p)) })
			},
		},
		{
			Dir: DirZramfs, Name: "write_behind", Mode: 0o644,
			Help: "frames for pages that are acknowledged before they are compressed; 0 is off; before disksize only",
			Show: func(d *Device, b []byte) ([]byte, error) {
				d.mu.Lock()
				defer d.mu.Unlock()
				return fmt.Appendf(b, "%d\n", d.next.writeBehind), nil
			},
			Store: func(d *Device, value string) error {
				n, err := parseCount("write_behind", value, 0, maxFrames)
				if err != nil {
					return err
				}
				return d.configure("write_behind", func(s *settings) { s.writeBehind = int(n) })
			},
		},
	}
}

// policy is the stable policy in force.
func (d *Device) policy() stable.Policy {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.next.policy
}

// configure changes a setting that a disk is made with.
func (d *Device) configure(what string, change func(*settings)) error {
	return d.configureErr(what, func(s *settings) error { change(s); return nil })
}

func (d *Device) configureErr(what string, change func(*settings) error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.disk.Load() != nil {
		return fmt.Errorf("%s: %s has a size already; reset it first: %w", what, d.Name(), ErrBusy)
	}
	return d.changeLocked(change, nil)
}

// change changes a setting that a disk can be given at any time.
func (d *Device) change(change func(*settings) error, apply func(*disk)) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.changeLocked(change, apply)
}

func (d *Device) changeLocked(change func(*settings) error, apply func(*disk)) error {
	if d.gone {
		return fmt.Errorf("%s: %w", d.Name(), ErrNoDevice)
	}
	s, k := d.next, d.disk.Load()
	if err := change(&s); err != nil {
		return err
	}
	if err := d.publish(s, k != nil); err != nil {
		return err
	}
	d.next = s
	if k != nil {
		apply(k)
	}
	return nil
}

func storeAlgorithm(d *Device, value string) error {
	p, err := compress.ParseAlgorithm(trim(value))
	if err != nil {
		return codecError("comp_algorithm", err)
	}
	return d.configure("comp_algorithm", func(s *settings) { s.params = p })
}

// storeAlgorithmParams reads the kernel's key=value list. Each call starts
// from the algorithm's defaults, as the kernel's does.
func storeAlgorithmParams(d *Device, value string) error {
	t, err := compress.ParseParams(trim(value))
	if err != nil {
		return codecError("algorithm_params", err)
	}
	if t.Priority != 0 {
		return fmt.Errorf("algorithm_params: priority %d: there is no secondary algorithm, use priority 0: %w", t.Priority, ErrInvalid)
	}
	if t.DictPath != "" {
		return fmt.Errorf("algorithm_params: dict %q: dictionaries are not supported, leave it out: %w", t.DictPath, ErrInvalid)
	}
	return d.configureErr("algorithm_params", func(s *settings) error {
		if t.Algo == "" {
			t.Algo = s.params.Codec
		}
		p, err := t.Params(t.Algo, nil)
		if err != nil {
			return codecError("algorithm_params", err)
		}
		s.params = p
		return nil
	})
}

// codecError gives what package compress says of a text one of our errors.
func codecError(what string, err error) error {
	if errors.Is(err, compress.ErrTooLong) {
		return fmt.Errorf("%s: %w: %w", what, ErrTooBig, err)
	}
	return fmt.Errorf("%s: %w: %w", what, ErrInvalid, err)
}
