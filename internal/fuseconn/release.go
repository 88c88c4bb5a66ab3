package fuseconn

import (
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// maxReleases is how many RELEASEs can wait for the control thread at most; fewer
// where the kernel may have fewer requests in the background.
const maxReleases = 2048

// release is a RELEASE that waits for the control thread. The kernel sends it in
// the background, takes no notice of an error and does not ask again, so that a
// handle whose RELEASE was refused would keep its disk in use as long as the mount
// is there. Therefore it needs no slot, nor room in a ring. It is answered when
// it is done: one that a worker leaves behind is sent again, or found in the ring.
//
// Nothing else needs that. FORGET has no answer, EAGAIN for an INTERRUPT has the
// kernel send another, and a directory has no handle.
type release struct {
	unique, node, fh uint64
	fd               uintptr
	entry            *Request // of a ring, in which it stays; nil: it came on /dev/fuse
}

const releaseInSize = int(unsafe.Sizeof(fuse.ReleaseIn{}))

// releases is for how many RELEASEs there is to be room: as many as the kernel
// may have under way, which are requests in the background.
func (l Layout) releases(background int) int {
	n := min(background, maxReleases)
	for i := range l.Ring.CPUs {
		n += len(l.Ring.queues(i))
	}
	return n
}

// newReleases makes the list, and touches all of it.
func newReleases(room int) chan release {
	c := make(chan release, room)
	for range room {
		c <- release{}
	}
	for range room {
		<-c
	}
	return c
}

// letGo queues a RELEASE; false: there is no room for it.
func (c *control) letGo(r release) bool {
	select {
	case c.releases <- r:
		return true
	default:
		return false
	}
}

// letGo queues the RELEASE of n bytes in r, whose buffer is free then.
func (rd *reader) letGo(r *Request, n int) bool {
	q := in[fuse.ReleaseIn](r.head)
	return n >= releaseInSize && rd.control.letGo(release{unique: q.Unique, node: q.NodeId, fh: q.Fh, fd: rd.fd})
}

// letGo queues the RELEASE in r, whose entry stays in use.
func (ln *lane) letGo(r *Request, by *lane) bool {
	if by == ln {
		ln.parked.Add(1) // first: it may be answered at once
	}
	if ln.control.letGo(release{entry: r}) {
		return true
	}
	if by == ln {
		ln.parked.Add(-1)
	}
	return false
}

// release does a RELEASE, in the slot that is the control thread's own. Only from
// then on it is one of those in flight.
func (c *control) release(r release) {
	s := c.own
	s.large, s.ring = r.entry, r.entry != nil
	if s.ring {
		s.n = int(r.entry.entry.n)
	} else {
		s.n, s.fd = releaseInSize, r.fd
		*(*fuse.ReleaseIn)(unsafe.Pointer(&s.mem[slotRequest])) = fuse.ReleaseIn{
			InHeader: fuse.InHeader{Length: uint32(releaseInSize), Opcode: opRelease, Unique: r.unique, NodeId: r.node},
			Fh:       r.fh,
		}
		s.index.open(r.unique)
	}
	c.finish(s, s.request())
}

// releaseAll does those that wait. Whoever asks for something after he has closed
// a file finds it closed.
func (c *control) releaseAll() {
	for {
		select {
		case r := <-c.releases:
			c.release(r)
		default:
			return
		}
	}
}
