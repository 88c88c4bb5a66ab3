package fusefs

import (
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/zramfs/zramfs/blockdev"
	"github.com/zramfs/zramfs/internal/fuseconn"
)

// IsDisk says whether the node is some dev/zramN or a segment, by its number
// alone.
func (t *Tree) IsDisk(node uint64) bool {
	id, kind := split(node)
	return kind == kindDisk && id >= 0 && id < maxDevices || t.segment(node) >= 0
}

// Attach gives a Request the blockdev.Request that it is served with.
func (t *Tree) Attach(r *fuseconn.Request) {
	r.Context = &blockdev.Request{Done: answer, Tag: r}
}

// answer ends a request that was parked.
func answer(b *blockdev.Request, n int, err error) {
	b.Data = nil
	b.Tag.(*fuseconn.Request).Reply(n, errnoOf(err))
}

// Serve does one request of a disk. A disk without a size has no bytes: reads
// end at once, writes find no space.
func (t *Tree) Serve(r *fuseconn.Request) (n int, parked bool, errno syscall.Errno) {
	id, _ := split(r.Node)
	d := t.disks[id].Load()
	if d == nil {
		// Opened when another worker served.
		if d = t.device(id); d == nil {
			return 0, false, syscall.ENODEV
		}
		t.disks[id].Store(d)
	}
	b := r.Context.(*blockdev.Request)
	b.Off, b.Len, b.Data, b.Stream, b.Last = r.Offset, r.Length, r.Data, r.Reader%t.streams, r.Last
	switch r.Op {
	case fuseconn.Read:
		b.Op = blockdev.OpRead
	case fuseconn.Write:
		b.Op = blockdev.OpWrite
	case fuseconn.Sync:
		b.Op = blockdev.OpFlush
	case fuseconn.Allocate:
		switch r.Mode &^ unix.FALLOC_FL_KEEP_SIZE {
		case unix.FALLOC_FL_PUNCH_HOLE:
			b.Op = blockdev.OpDiscard
		case unix.FALLOC_FL_ZERO_RANGE:
			b.Op = blockdev.OpZero
		default:
			return 0, false, syscall.EOPNOTSUPP
		}
	}
	size := d.Size()
	within := size != 0
	if n := t.segment(r.Node); within && n >= 0 {
		within = t.window(n, size, r, b)
	}
	if !within {
		b.Data = nil
		if r.Op == fuseconn.Write {
			return 0, false, syscall.ENOSPC
		}
		return 0, false, 0
	}
	n, parked, err := d.Submit(b)
	if parked {
		return 0, true, 0 // r may be another request by now
	}
	b.Data = nil
	return n, false, errnoOf(err)
}
