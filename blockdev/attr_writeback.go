package blockdev

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// writebackAttribute: pages go to the backing device when it is written.
func writebackAttribute() Attribute {
	return Attribute{
		Dir: DirBlock, Name: "writeback", Mode: 0o200,
		Help: "type=idle, huge, huge_idle or incompressible, page_index=N, page_indexes=LO-HI: writes these pages to backing_dev",
		StoreSlow: func(ctx context.Context, d *Device, value string) error {
			k, err := d.disked("writeback")
			if err != nil {
				return err
			}
			defer k.letGo()
			if k.back == nil {
				return fmt.Errorf("writeback: no backing device; store its path in backing_dev before disksize: %w", ErrNoDevice)
			}
			selectors, err := parseWriteback(trim(value), k.table.slots())
			if err != nil {
				return err
			}
			_, err = k.writebackPass(ctx, writebackOptions{selectors: selectors})
			return err
		},
	}
}

// parseWriteback reads what the kernel's writeback_store does: parameters in
// turn, until a type or a bare word of the old form, which takes the range that
// was named before it, or everything. Parameters of other names mean nothing.
func parseWriteback(value string, slots uint64) (selectors []selector, err error) {
	lo, hi := uint64(0), slots
	for _, arg := range strings.Fields(value) {
		key, val, _ := strings.Cut(arg, "=")
		switch {
		case val == "":
			key, val = "type", strings.TrimSuffix(arg, "=")
			fallthrough
		case key == "type":
			s, ok := writebackTypes(val)
			if !ok {
				return nil, fmt.Errorf("writeback type %q: need idle, huge, huge_idle or incompressible: %w", val, ErrInvalid)
			}
			s.lo, s.hi = lo, hi
			return append(selectors, s), nil
		case key == "page_index":
			if lo, err = parseIndex(val, slots); err != nil {
				return nil, err
			}
			hi = lo + 1
		case key == "page_indexes":
			first, last, ok := strings.Cut(val, "-")
			if !ok {
				return nil, fmt.Errorf("writeback page_indexes %q: need LO-HI: %w", val, ErrInvalid)
			}
			if lo, err = parseIndex(first, slots); err != nil {
				return nil, err
			}
			if hi, err = parseIndex(last, slots); err != nil {
				return nil, err
			}
			if lo > hi {
				return nil, fmt.Errorf("writeback page_indexes %q: the first page comes after the last: %w", val, ErrRange)
			}
			hi++
		default:
			continue
		}
		selectors = append(selectors, selector{lo: lo, hi: hi})
	}
	return selectors, nil
}

func writebackTypes(name string) (s selector, ok bool) {
	switch name {
	case "idle":
		s.idle = true
	case "huge":
		s.huge = true
	case "huge_idle":
		s.idle, s.huge = true, true
	case "incompressible":
		s.incompressible = true
	default:
		return s, false
	}
	return s, true
}

func parseIndex(value string, slots uint64) (uint64, error) {
	n, err := strconv.ParseUint(value, 10, 64)
	switch {
	case err == nil && n < slots:
		return n, nil
	case err == nil || errors.Is(err, strconv.ErrRange):
		return 0, fmt.Errorf("writeback page %s: the disk has %d pages, from 0: %w", value, slots, ErrRange)
	}
	return 0, fmt.Errorf("writeback page %q: need a number: %w", value, ErrInvalid)
}
