package blockdev

import (
	"fmt"
	"strconv"
	"strings"

	units "github.com/docker/go-units"
)

// Dir is where in the tree an attribute file lies.
type Dir uint8

const (
	// DirBlock is sys/block/zramN.
	DirBlock Dir = iota
	// DirZramfs is sys/block/zramN/zramfs: what the kernel does not have.
	DirZramfs
	// DirClasses is sys/kernel/debug/zsmalloc/zramN.
	DirClasses
	// DirDebug is sys/kernel/debug/zram/zramN.
	DirDebug
)

// Attribute is one row of the attribute table. The files in the mount,
// `zramfs get` and `set`, and the metrics all come from it. Names, columns,
// units, modes and errno of what the kernel has are the kernel's
// (Documentation/admin-guide/blockdev/zram.rst, drivers/block/zram).
type Attribute struct {
	Dir  Dir
	Name string
	Mode uint32 // permission bits
	Help string // one line

	// Show appends the value to b; nil for write-only attributes.
	Show func(d *Device, b []byte) ([]byte, error)
	// Store parses and applies a value, a trailing newline allowed; nil for
	// read-only attributes.
	Store func(d *Device, value string) error
}

// Attributes is the table of built-in attributes, in the order of their
// directories.
func Attributes() []Attribute {
	var rows []Attribute
	for _, family := range [][]Attribute{
		lifeAttributes(), codecAttributes(), memoryAttributes(), statAttributes(), zramfsAttributes(), debugAttributes(),
	} {
		rows = append(rows, family...)
	}
	return rows
}

// disked holds the initialised disk, or gives an error of the kernel's kind for
// an attribute that needs one.
func (d *Device) disked(attribute string) (*disk, error) {
	if k := d.hold(); k != nil {
		return k, nil
	}
	return nil, fmt.Errorf("%s: %s has no disksize yet; set it first: %w", attribute, d.Name(), ErrInvalid)
}

// trim takes off the newline that echo adds.
func trim(value string) string { return strings.TrimSuffix(value, "\n") }

// parseSize reads bytes as the kernel's memparse does, K, M, G, T suffixes
// included, and a unit as people write it.
func parseSize(value string) (int64, error) {
	s := strings.TrimSpace(value)
	if n, err := strconv.ParseInt(s, 0, 64); err == nil && n >= 0 {
		return n, nil
	}
	if n, err := units.RAMInBytes(s); err == nil && n >= 0 {
		return n, nil
	}
	return 0, fmt.Errorf("size %q: need bytes, or a number with K, M, G or T: %w", s, ErrInvalid)
}

// parseCount reads a number from lo to hi.
func parseCount(what, value string, lo, hi int64) (int64, error) {
	n, err := strconv.ParseInt(strings.TrimSpace(value), 0, 64)
	if err != nil || n < lo || n > hi {
		return 0, fmt.Errorf("%s %q: need a number from %d to %d: %w", what, strings.TrimSpace(value), lo, hi, ErrInvalid)
	}
	return n, nil
}
