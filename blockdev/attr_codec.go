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
			Help:  "parameters of an algorithm: priority=N or algo=NAME, level=N, dict=FILE (lz4 and zstd), deflate.winbits=N; before disksize only",
			Store: storeAlgorithmParams,
		},
		{
			Dir: DirZramfs, Name: "algorithm", Mode: 0o644,
			Help: "the algorithm with its level, as --algorithm takes it; storing another changes it at any time, for what is written from then on",
			Show: func(d *Device, b []byte) ([]byte, error) {
				d.mu.Lock()
				defer d.mu.Unlock()
				return fmt.Appendf(b, "%s\n", d.next.params), nil
			},
			Store: func(d *Device, value string) error {
				p, err := compress.ParseAlgorithm(trim(value))
				if err != nil {
					return codecError("algorithm", err)
				}
				return d.useAlgorithm(0, p, dictionaryFile{})
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
	return d.configure("comp_algorithm", func(s *settings) { s.params, s.dicts[0] = p, dictionaryFile{} })
}

// useAlgorithm makes the algorithm of a priority another one, on a device that
// has a disk as well: what is stored stays as it is, and readable.
func (d *Device) useAlgorithm(prio int, p compress.Params, f dictionaryFile) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	k := d.disk.Load()
	if k != nil && !d.gone {
		// The header has it first: the next worker must find what the settings name.
		was := k.byPriority[prio].Load()
		if err := k.use(wanted{p, f, uint8(prio)}); err != nil {
			return fmt.Errorf("algorithm %s: %w", p, err)
		}
		now := k.byPriority[prio].Swap(was)
		return d.changeLocked(func(s *settings) error { *s.algorithm(prio), s.dicts[prio] = p, f; return nil },
			func(k *disk) { k.byPriority[prio].Store(now) })
	}
	return d.changeLocked(func(s *settings) error { *s.algorithm(prio), s.dicts[prio] = p, f; return nil }, nil)
}

// storeAlgorithmParams reads the kernel's key=value list. Each call starts
// from the algorithm's defaults, as the kernel's does. algo is looked up among the
// algorithms that the device has, and goes before priority.
func storeAlgorithmParams(d *Device, value string) error {
	t, err := compress.ParseParams(trim(value))
	if err != nil {
		return codecError("algorithm_params", err)
	}
	var file dictionaryFile
	var dict []byte
	if t.DictPath != "" {
		if dict, file, err = d.readDictionary(t.DictPath); err != nil {
			return fmt.Errorf("algorithm_params: %w", err)
		}
	}
	return d.configureErr("algorithm_params", func(s *settings) error {
		prio, err := s.find("algorithm_params", t.Algo, t.Priority, 0)
		if err != nil {
			return err
		}
		at := s.algorithm(prio)
		p, err := t.Params(at.Codec, dict)
		if err == nil {
			err = p.Probe()
		}
		if err != nil {
			return codecError("algorithm_params", err)
		}
		*at, s.dicts[prio] = p, file
		return nil
	})
}

// find gives the priority of the algorithm that a name says, from first on, or
// sees that there is one of the given priority.
func (s *settings) find(what, algo string, prio, first int) (int, error) {
	if algo == "" {
		if s.algorithm(prio).Codec == "" {
			return 0, fmt.Errorf("%s: there is no algorithm of priority %d; set it by recomp_algorithm first: %w", what, prio, ErrInvalid)
		}
		return prio, nil
	}
	for i := first; i <= maxPriority; i++ {
		if s.algorithm(i).Codec == algo {
			return i, nil
		}
	}
	return 0, fmt.Errorf("%s: %s is not among the algorithms of this device; set it by comp_algorithm or recomp_algorithm first: %w", what, algo, ErrInvalid)
}

// codecError gives what package compress says of a text one of our errors.
func codecError(what string, err error) error {
	if errors.Is(err, compress.ErrTooLong) {
		return fmt.Errorf("%s: %w: %w", what, ErrTooBig, err)
	}
	return fmt.Errorf("%s: %w: %w", what, ErrInvalid, err)
}
