package fusefs

import (
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

	// Of an attribute file: what a reader sees, made when it reads from the
	// start. One reader at a time: the control thread, or who holds Tree.mu.
	text  []byte
	ready bool
}

// Open implements fuse.RawFileSystem.
func (t *Tree) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	h := &handle{}
	if t.IsDisk(in.NodeId) {
		id, _ := split(in.NodeId)
		d := t.device(id)
		if d == nil {
			return fuse.ENODEV
		}
		if err := d.Open(); err != nil {
			return statusOf(err)
		}
		t.disks[id].Store(d)
		h.disk = d
	} else if st := t.mayOpen(in.NodeId, in.Flags&syscall.O_ACCMODE); !st.Ok() {
		return st
	}
	out.Fh = in.Unique &^ resent
	out.OpenFlags = fuse.FOPEN_DIRECT_IO | fuse.FOPEN_NOFLUSH
	if h.disk != nil {
		out.OpenFlags |= fuse.FOPEN_PARALLEL_DIRECT_WRITES
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.open[out.Fh] = h
	return fuse.OK
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
		read, write = a.Show != nil, a.Store != nil
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
	if h != nil && h.disk != nil {
		h.disk.Close()
	}
}

// OnUnmount closes what is open still: the last closes are not always told.
func (t *Tree) OnUnmount() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, h := range t.open {
		if h.disk != nil {
			h.disk.Close()
		}
	}
	clear(t.open)
}

// Read implements fuse.RawFileSystem, for attribute files. A read from the
// start makes the text anew; hot_add makes one device per open.
func (t *Tree) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
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
		if text, err = t.show(in.NodeId); err != nil {
			return nil, statusOf(err)
		}
		t.mu.Lock()
		h.text, h.ready = text, true
		t.mu.Unlock()
	}
	return fuse.ReadResultData(buf[:copy(buf, text[min(in.Offset, uint64(len(text))):])]), fuse.OK
}

// show makes the text of a file.
func (t *Tree) show(node uint64) ([]byte, error) {
	if node == nodeHotAdd {
		id, err := t.set.HotAdd()
		if err != nil {
			return nil, err
		}
		return fmt.Appendf(nil, "%d\n", id), nil
	}
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
// a store of its own, wherever it goes.
func (t *Tree) Write(_ <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	value := string(data[:min(len(data), pageSize)])
	if err := t.store(in.NodeId, value); err != nil {
		return 0, statusOf(err)
	}
	return uint32(len(value)), fuse.OK
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
