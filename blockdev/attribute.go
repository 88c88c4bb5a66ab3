package blockdev

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
// `zramfs get` and `set`, and the metrics all come from it.
type Attribute struct {
	Dir  Dir
	Name string
	Mode uint32 // permission bits, as the kernel's
	Help string // one line

	// Show appends the value to b; nil for write-only attributes.
	Show func(d *Device, b []byte) ([]byte, error)
	// Store parses and applies a value, a trailing newline allowed; nil for
	// read-only attributes.
	Store func(d *Device, value string) error
}
