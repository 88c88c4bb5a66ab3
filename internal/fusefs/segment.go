package fusefs

import (
	"strconv"
	"strings"

	"github.com/zramfs/zramfs/blockdev"
	"github.com/zramfs/zramfs/internal/fuseconn"
)

// MaxSegments is into how many segments disk 0 can be cut.
const MaxSegments = 16

// Segments are the files dev/zram0.0, dev/zram0.1, …: equal ranges of disk 0,
// whole pages each, so that a disk can be swap a part at a time. What remains at the
// end, less than a page for each segment, belongs to none. An open segment is
// an opener of the disk.
const (
	segmentDevice = 0
	segmentName   = "zram0."
	// kindSegment is the kind of the first segment's node; the others follow.
	kindSegment = 16
)

// segment gives the number of the segment that a node is, -1 if it is none.
func (t *Tree) segment(node uint64) int {
	id, kind := split(node)
	if id != segmentDevice || kind < kindSegment || kind >= kindSegment+uint64(t.segments) {
		return -1
	}
	return int(kind - kindSegment)
}

// segmentBytes is the length of each segment of a disk of size bytes.
func (t *Tree) segmentBytes(size int64) int64 { return size / int64(t.segments) &^ (pageSize - 1) }

// segmentEntries lists the segments in dev.
func (t *Tree) segmentEntries() []entry {
	if t.device(segmentDevice) == nil {
		return nil
	}
	entries := make([]entry, t.segments)
	for i := range entries {
		entries[i] = entry{segmentName + strconv.Itoa(i), deviceNode(segmentDevice, kindSegment+uint64(i)), false}
	}
	return entries
}

// findSegment looks a name up in dev; node 0: it is no segment.
func (t *Tree) findSegment(name string) uint64 {
	if !strings.HasPrefix(name, segmentName) {
		return 0
	}
	for _, e := range t.segmentEntries() {
		if e.name == name {
			return e.node
		}
	}
	return 0
}

// window moves a request of a segment to where that lies on the disk, and cuts
// it at the segment's end. False: it begins at the end or beyond.
func (t *Tree) window(segment int, size int64, r *fuseconn.Request, b *blockdev.Request) bool {
	n := t.segmentBytes(size)
	if r.Offset >= n {
		return false
	}
	b.Off += int64(segment) * n
	b.Len = min(b.Len, n-r.Offset)
	if int64(len(b.Data)) > n-r.Offset {
		b.Data = b.Data[:n-r.Offset]
	}
	return true
}
