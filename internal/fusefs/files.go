package fusefs

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/zramfs/zramfs/blockdev"
)

// resent marks the unique id of an OPEN that the kernel sends again.
const resent = uint64(1) << 63

// pageSize is what an attribute file says is its size, and what one write may
// bring, as in sysfs.
const pageSize = 4096

// handle is an open file. It is found by the id of its OPEN, so an OPEN that
// is sent again opens the same.
type handle struct {
	disk *blockdev.Device // not nil: counted as an opener
	kept *handleRecord    // not nil: the next worker will find it

	// Of an attribute file: what a reader sees, made when it reads from the
	// start. One reader at a time: the control thread, or who holds Tree.mu.
	text  []byte
	ready bool
}

// Open implements fuse.RawFileSystem.
func (t *Tree) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	out.Fh = in.Unique &^ resent
	out.OpenFlags = fuse.FOPEN_DIRECT_IO | fuse.FOPEN_NOFLUSH
	if t.IsDisk(in.NodeId) || t.IsSlow(in.NodeId) {
		out.OpenFlags |= fuse.FOPEN_PARALLEL_DIRECT_WRITES
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.open[out.Fh] != nil {
		return fuse.OK // it was open before its worker died
	}
	if !t.IsDisk(in.NodeId) {
		if st := t.mayOpen(in.NodeId, in.Flags&syscall.O_ACCMODE); !st.Ok() {
			return st
		}
	}
	h := &handle{}
	if err := t.openDisk(h, in.NodeId); err != nil {
		return statusOf(err)
	}
	if h.disk != nil || in.NodeId == nodeHotAdd {
		var err error
		if h.kept, err = t.ledger.take(out.Fh, in.NodeId); err != nil {
			h.close()
			return statusOf(err)
		}
	}
	t.open[out.Fh] = h
	return fuse.OK
}

// openDisk counts an opener, if the node is a disk.
func (t *Tree) openDisk(h *handle, node uint64) error {
	if !t.IsDisk(node) {
		return nil
	}
	id, _ := split(node)
	d := t.device(id)
	if d == nil {
		return blockdev.ErrNoDevice
	}
	if err := d.Open(); err != nil {
		return err
	}
	t.disks[id].Store(d)
	h.disk = d
	return nil
}

// close gives a handle back.
func (h *handle) close() {
	h.kept.give()
	if h.disk != nil {
		h.disk.Close()
	}
}

// Resume takes up what earlier workers of the mount have left in the ledger,
// after the set has adopted its devices: open handles are counted again, and
// an operation that was begun is known to be done or never to have happened.
// Every worker calls it before the first request is answered, the first
// worker, too.
func (t *Tree) Resume() error {
	for _, d := range t.set.Devices() {
		t.disks[d.ID()].Store(d)
	}
	if t.memory == nil {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.ledger.open(t.memory); err != nil {
		return err
	}
	t.ledger.settle(t.set.Changes())
	for i := range ledgerHandles {
		r := t.ledger.handle(i)
		key := r.key.Load()
		if key == 0 {
			continue
		}
		h := &handle{kept: r}
		if err := t.openDisk(h, r.node); err != nil {
			return fmt.Errorf("open handle %d of node %d again: %w", key, r.node, err)
		}
		if r.number != 0 {
			h.text, h.ready = hotAdded(int(r.number-1)), true
		}
		t.open[key] = h
	}
	return nil
}

// mayOpen refuses, even to root, to read what has no show and to write what
// has no store, as sysfs does.
func (t *Tree) mayOpen(node uint64, access uint32) fuse.Status {
	var read, write bool
	switch node {
	case nodeHotAdd:
		read = true
	case nodeHotRemove:
		write = true
	default:
		a, d := t.attribute(node)
		if a == nil {
			return fuse.EISDIR
		}
		if d == nil {
			return fuse.ENODEV
		}
		read, write = a.Readable(), a.Writable()
	}
	if access != syscall.O_WRONLY && !read || access != syscall.O_RDONLY && !write {
		return fuse.EACCES
	}
	return fuse.OK
}

// Release implements fuse.RawFileSystem.
func (t *Tree) Release(_ <-chan struct{}, in *fuse.ReleaseIn) {
	t.mu.Lock()
	h := t.open[in.Fh]
	delete(t.open, in.Fh)
	t.mu.Unlock()
	if h != nil {
		h.close()
	}
}

// OnUnmount closes what is open still: the last closes are not always told.
func (t *Tree) OnUnmount() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, h := range t.open {
		h.close()
	}
	clear(t.open)
}

// Read implements fuse.RawFileSystem, for attribute files. A read from the
// start makes the text anew; hot_add makes one device per open.
func (t *Tree) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	if a, d := t.attribute(in.NodeId); a != nil && a.ShowAt != nil {
		if d == nil {
			return nil, fuse.ENODEV
		}
		n, err := a.ShowAt(d, buf, int64(in.Offset))
		if err != nil {
			return nil, statusOf(err)
		}
		return fuse.ReadResultData(buf[:n]), fuse.OK
	}
	t.mu.Lock()
	h := t.open[in.Fh]
	if h == nil {
		// Opened when another worker served.
		h = &handle{}
		t.open[in.Fh] = h
	}
	text, ready := h.text, h.ready
	t.mu.Unlock()
	if !ready || in.Offset == 0 && in.NodeId != nodeHotAdd {
		var err error
		if in.NodeId == nodeHotAdd {
			text, err = t.hotAdd(in, h)
		} else {
			text, err = t.show(in.NodeId)
		}
		if err != nil {
			return nil, statusOf(err)
		}
		t.mu.Lock()
		h.text, h.ready = text, true
		t.mu.Unlock()
	}
	return fuse.ReadResultData(buf[:copy(buf, text[min(in.Offset, uint64(len(text))):])]), fuse.OK
}

// hotAdd makes a device. The handle gets its number first, so that a read
// that comes again finds it.
func (t *Tree) hotAdd(in *fuse.ReadIn, h *handle) ([]byte, error) {
	op := t.ledger.begin(in.Unique, t.set.Changes(), 0, in.Fh)
	id, err := t.set.HotAddAs(h.kept.note)
	op.end(errnoOf(err))
	if err != nil {
		return nil, err
	}
	return hotAdded(id), nil
}

func hotAdded(id int) []byte { return fmt.Appendf(nil, "%d\n", id) }

// show makes the text of an attribute.
func (t *Tree) show(node uint64) ([]byte, error) {
	a, d := t.attribute(node)
	if a == nil || d == nil {
		return nil, blockdev.ErrNoDevice
	}
	if a.Show == nil {
		return nil, syscall.EACCES
	}
	return a.Show(d, nil)
}

// Write implements fuse.RawFileSystem, for attribute files: each write(2) is
// a store of its own, wherever it goes. One that comes again is not done again,
// unless it is slow: those may be done twice.
func (t *Tree) Write(cancel <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	value := string(data[:min(len(data), pageSize)])
	if t.IsSlow(in.NodeId) {
		if err := t.storeSlow(cancel, &in.InHeader, value); err != nil {
			return 0, statusOf(blocking(in, err))
		}
		return uint32(len(value)), fuse.OK
	}
	if n, errno, ok := t.ledger.done(in.Unique); ok {
		return n, fuse.Status(errno)
	}
	op := t.ledger.begin(in.Unique, t.set.Changes(), len(value), 0)
	err := blocking(in, t.store(in.NodeId, value))
	op.end(errnoOf(err))
	if err != nil {
		return 0, statusOf(err)
	}
	return uint32(len(value)), fuse.OK
}

// blocking gives who does not want to wait EBUSY instead of EAGAIN, which would
// tell him to wait until the file can be written: the kernel says of each FUSE
// file that it can be, once, and os.File of Go would wait for ever.
func blocking(in *fuse.WriteIn, err error) error {
	if in.Flags&syscall.O_NONBLOCK != 0 && errors.Is(err, blockdev.ErrAgain) {
		return fmt.Errorf("%w: %v", blockdev.ErrBusy, err)
	}
	return err
}

// IsSlow says whether a write of the node may take long. It implements
// fuseconn.Slow.
func (t *Tree) IsSlow(node uint64) bool {
	_, kind := split(node)
	a := t.rows.byKind[kind]
	return a != nil && a.StoreSlow != nil
}

// storeSlow stores until it is done, or cancel is closed and who stores is
// told to end, or gone.
func (t *Tree) storeSlow(cancel <-chan struct{}, in *fuse.InHeader, value string) error {
	a, d := t.attribute(in.NodeId)
	if a == nil || d == nil {
		return blockdev.ErrNoDevice
	}
	ctx, end := context.WithCancel(context.Background())
	defer end()
	go func() {
		select {
		case <-cancel:
			signalled(in.Pid, ctx.Done())
			end()
		case <-ctx.Done():
		}
	}()
	return a.Do(ctx, d, value)
}

func (t *Tree) store(node uint64, value string) error {
	if node == nodeHotRemove {
		id, err := strconv.Atoi(strings.TrimSpace(value))
		if err != nil {
			return fmt.Errorf("hot_remove %q: %w", value, blockdev.ErrInvalid)
		}
		return t.set.HotRemove(id)
	}
	a, d := t.attribute(node)
	if a == nil || d == nil {
		return blockdev.ErrNoDevice
	}
	if a.Store == nil {
		return syscall.EACCES
	}
	return a.Store(d, value)
}

// Flush implements fuse.RawFileSystem.
func (t *Tree) Flush(_ <-chan struct{}, _ *fuse.FlushIn) fuse.Status { return fuse.OK }

// Fsync implements fuse.RawFileSystem.
func (t *Tree) Fsync(_ <-chan struct{}, _ *fuse.FsyncIn) fuse.Status { return fuse.OK }

// Fallocate implements fuse.RawFileSystem, for attribute files.
func (t *Tree) Fallocate(_ <-chan struct{}, _ *fuse.FallocateIn) fuse.Status {
	return fuse.Status(syscall.EOPNOTSUPP)
}
