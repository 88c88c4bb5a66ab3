package blockdev

import (
	"context"
	"errors"
	"fmt"
	"strconv"
)

// lifeAttributes: what makes and unmakes the disk.
func lifeAttributes() []Attribute {
	return []Attribute{
		{
			Dir: DirBlock, Name: "disksize", Mode: 0o644,
			Help: "size of the disk in bytes; setting it initialises the device",
			Show: func(d *Device, b []byte) ([]byte, error) {
				return fmt.Appendf(b, "%d\n", d.Size()), nil
			},
			Store: func(d *Device, value string) error {
				n, err := parseSize(value)
				if err != nil {
					return err
				}
				return d.SetSize(n)
			},
		},
		{
			Dir: DirBlock, Name: "initstate", Mode: 0o444,
			Help: "1 once the disk has a size, else 0",
			Show: func(d *Device, b []byte) ([]byte, error) {
				if d.Size() == 0 {
					return append(b, "0\n"...), nil
				}
				return append(b, "1\n"...), nil
			},
		},
		{
			Dir: DirBlock, Name: "reset", Mode: 0o200,
			Help: "any number but 0 frees the disk and puts every setting back; busy while the disk is open",
			Store: func(d *Device, value string) error {
				n, err := strconv.ParseUint(trim(value), 10, 16)
				if errors.Is(err, strconv.ErrRange) {
					return fmt.Errorf("reset %q: need a number from 1 to 65535: %w", trim(value), ErrRange)
				}
				if err != nil || n == 0 {
					return fmt.Errorf("reset %q: need a number from 1 to 65535: %w", trim(value), ErrInvalid)
				}
				return d.Reset()
			},
		},
		{
			Dir: DirZramfs, Name: "populate", Mode: 0o200,
			Help: "1 commits the tables of the whole disk, so that no write faults one: before the disk becomes swap",
			StoreSlow: func(ctx context.Context, d *Device, value string) error {
				if trim(value) != "1" {
					return fmt.Errorf("populate %q: need 1: %w", trim(value), ErrInvalid)
				}
				k, err := d.disked("populate")
				if err != nil {
					return err
				}
				defer k.letGo()
				return k.populate(ctx)
			},
		},
		{
			Dir: DirZramfs, Name: "check", Mode: 0o600,
			Help: "1 walks the whole disk and compares everything derived with the slot table, beside the I/O; rate=N: at N MiB a second; strict: " +
				"I/O waits for all of it; reading tells how far it is, or what the last one found",
			Show:      showCheck,
			StoreSlow: storeCheck,
		},
	}
}
