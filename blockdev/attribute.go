package blockdev

import (
	"context"
	"errors"
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
	// ShowAt is Show of what is too large to be made at once: it fills b with what
	// there is at a position, and says how much that was; 0: there is no more. It
	// keeps nothing between two calls, so another worker may answer the next one.
	ShowAt func(d *Device, b []byte, off int64) (int, error)
	// Store parses and applies a value, a trailing newline allowed; nil for
	// read-only attributes.
	Store func(d *Device, value string) error
	// StoreSlow is Store of what may take long: other attributes are served
	// meanwhile. It returns soon after ctx has ended, which it does when who stores
	// is interrupted, when the disk is reset, and when the mount ends; call it by Do.
	// Where a worker dies the next one does it again from the start, so doing it
	// twice is doing it once; and it publishes no setting, since an operation beside
	// it could then be taken for done.
	StoreSlow func(ctx context.Context, d *Device, value string) error
}

// Readable says whether the attribute can be read.
func (a *Attribute) Readable() bool { return a.Show != nil || a.ShowAt != nil }

// Writable says whether the attribute can be written.
func (a *Attribute) Writable() bool { return a.Store != nil || a.StoreSlow != nil }

// Do stores a value, fast or slowly. ErrInterrupted: ctx ended first;
// ErrNoDevice: the disk was reset meanwhile.
func (a *Attribute) Do(ctx context.Context, d *Device, value string) error {
	if a.StoreSlow == nil {
		return a.Store(d, value)
	}
	var ending context.Context
	if k := d.disk.Load(); k != nil {
		ending = k.ending
		var cancel context.CancelFunc
		ctx, cancel = context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(ending, cancel)()
	}
	err := a.StoreSlow(ctx, d, value)
	switch {
	case !errors.Is(err, context.Canceled):
		return err
	case ending != nil && ending.Err() != nil:
		return fmt.Errorf("%s: %s was reset meanwhile: %w", a.Name, d.Name(), ErrNoDevice)
	}
	return fmt.Errorf("%s: %w", a.Name, ErrInterrupted)
}

// Attributes is the table of built-in attributes, in the order of their
// directories.
func Attributes() []Attribute {
	var rows []Attribute
	for _, family := range [][]Attribute{
		lifeAttributes(), codecAttributes(), recompressAttributes(), memoryAttributes(), limitAttributes(), statAttributes(), zramfsAttributes(), integrityAttributes(), imageAttributes(), resizeAttributes(), backingAttributes(), policyAttributes(), debugAttributes(),
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
