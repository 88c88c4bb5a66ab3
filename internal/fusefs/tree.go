package fusefs

import (
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/zramfs/zramfs/blockdev"
)

// Lookup implements fuse.RawFileSystem. What belongs to a device is looked up
// each time, since devices come and go; the rest is remembered.
func (t *Tree) Lookup(_ <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	node := t.find(h.NodeId, name)
	if node == 0 {
		return fuse.ENOENT
	}
	if st := t.attr(node, &out.Attr); !st.Ok() {
		return st
	}
	out.NodeId = node
	if _, ok := perDevice[h.NodeId]; !ok {
		out.SetEntryTimeout(forever)
	}
	if !t.IsDisk(node) {
		out.SetAttrTimeout(forever)
	}
	return fuse.OK
}

// GetAttr implements fuse.RawFileSystem. A disk is asked for its size each
// time; everything else is constant.
func (t *Tree) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	if !t.IsDisk(in.NodeId) {
		out.SetTimeout(forever)
	}
	return t.attr(in.NodeId, &out.Attr)
}

// SetAttr implements fuse.RawFileSystem. Opening with O_TRUNC and touch(1)
// change nothing; owner and mode cannot be changed; nor can sizes, but for
// truncation to nothing, which cannot be told from O_TRUNC.
func (t *Tree) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	if in.Valid&(fuse.FATTR_MODE|fuse.FATTR_UID|fuse.FATTR_GID) != 0 {
		return fuse.EPERM
	}
	st := t.attr(in.NodeId, &out.Attr)
	if size, ok := in.GetSize(); ok && st.Ok() && size != 0 && size != out.Size {
		return fuse.EINVAL
	}
	return st
}

// attr fills the attributes of a node.
func (t *Tree) attr(node uint64, out *fuse.Attr) fuse.Status {
	*out = fuse.Attr{
		Ino: node, Nlink: 1, Blksize: pageSize, Owner: fuse.Owner{Uid: t.uid, Gid: t.gid},
		Atime: t.born, Mtime: t.born, Ctime: t.born,
	}
	if entries, ok := fixed[node]; ok {
		t.dirAttr(out, len(entries))
		return fuse.OK
	}
	switch node {
	case nodeHotAdd:
		out.Mode, out.Size = syscall.S_IFREG|0o400, pageSize
		return fuse.OK
	case nodeHotRemove:
		out.Mode, out.Size = syscall.S_IFREG|0o200, pageSize
		return fuse.OK
	}
	id, kind := split(node)
	d := t.device(id)
	if d == nil {
		return fuse.ENOENT
	}
	if _, ok := dirOf(kind); ok {
		t.dirAttr(out, 1)
		return fuse.OK
	}
	if t.IsDisk(node) {
		size := uint64(d.Size())
		if t.segment(node) >= 0 {
			size = uint64(t.segmentBytes(d.Size()))
		}
		out.Mode, out.Size, out.Blocks = syscall.S_IFREG|0o600, size, size/512
		return fuse.OK
	}
	a := t.rows.byKind[kind]
	if a == nil {
		return fuse.ENOENT
	}
	out.Mode = syscall.S_IFREG | a.Mode&0o777
	if a.Dir == blockdev.DirBlock || a.Dir == blockdev.DirZramfs {
		out.Size = pageSize // debugfs files have none
	}
	return fuse.OK
}

func (t *Tree) dirAttr(out *fuse.Attr, subdirs int) {
	out.Mode, out.Nlink = syscall.S_IFDIR|0o755, uint32(2+subdirs)
}

// OpenDir implements fuse.RawFileSystem.
func (t *Tree) OpenDir(_ <-chan struct{}, _ *fuse.OpenIn, _ *fuse.OpenOut) fuse.Status {
	return fuse.OK
}

// FsyncDir implements fuse.RawFileSystem.
func (t *Tree) FsyncDir(_ <-chan struct{}, _ *fuse.FsyncIn) fuse.Status { return fuse.OK }

// ReadDir implements fuse.RawFileSystem.
func (t *Tree) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	entries, ok := t.list(in.NodeId)
	if !ok {
		return fuse.ENOTDIR
	}
	first := [...]entry{{".", in.NodeId, true}, {"..", nodeRoot, true}}
	for i := in.Offset; i < uint64(len(first)+len(entries)); i++ {
		e := first[i%2]
		if i >= uint64(len(first)) {
			e = entries[i-uint64(len(first))]
		}
		mode := uint32(syscall.S_IFREG)
		if e.dir {
			mode = syscall.S_IFDIR
		}
		if !out.AddDirEntry(fuse.DirEntry{Name: e.name, Ino: e.node, Mode: mode}) {
			break
		}
	}
	return fuse.OK
}

// StatFs implements fuse.RawFileSystem. The block size is what the loop driver
// takes for the granularity of discards.
func (t *Tree) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	for _, d := range t.set.Devices() {
		out.Blocks += uint64(d.Size()) / pageSize
	}
	out.Bsize, out.Frsize, out.NameLen = pageSize, pageSize, 255
	return fuse.OK
}

// Nothing is made, removed or renamed in this tree but through hot_add and
// hot_remove.

// Create implements fuse.RawFileSystem.
func (t *Tree) Create(_ <-chan struct{}, _ *fuse.CreateIn, _ string, _ *fuse.CreateOut) fuse.Status {
	return fuse.EACCES
}

// Mknod implements fuse.RawFileSystem.
func (t *Tree) Mknod(_ <-chan struct{}, _ *fuse.MknodIn, _ string, _ *fuse.EntryOut) fuse.Status {
	return fuse.EPERM
}

// Mkdir implements fuse.RawFileSystem.
func (t *Tree) Mkdir(_ <-chan struct{}, _ *fuse.MkdirIn, _ string, _ *fuse.EntryOut) fuse.Status {
	return fuse.EPERM
}

// Symlink implements fuse.RawFileSystem.
func (t *Tree) Symlink(_ <-chan struct{}, _ *fuse.InHeader, _, _ string, _ *fuse.EntryOut) fuse.Status {
	return fuse.EPERM
}

// Link implements fuse.RawFileSystem.
func (t *Tree) Link(_ <-chan struct{}, _ *fuse.LinkIn, _ string, _ *fuse.EntryOut) fuse.Status {
	return fuse.EPERM
}

// Unlink implements fuse.RawFileSystem.
func (t *Tree) Unlink(_ <-chan struct{}, _ *fuse.InHeader, _ string) fuse.Status { return fuse.EPERM }

// Rmdir implements fuse.RawFileSystem.
func (t *Tree) Rmdir(_ <-chan struct{}, _ *fuse.InHeader, _ string) fuse.Status { return fuse.EPERM }

// Rename implements fuse.RawFileSystem.
func (t *Tree) Rename(_ <-chan struct{}, _ *fuse.RenameIn, _, _ string) fuse.Status {
	return fuse.EPERM
}
