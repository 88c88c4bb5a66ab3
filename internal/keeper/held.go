package keeper

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/zramfs/zramfs/internal/fuseconn"
)

// Roles of descriptors.
const (
	rolePoint   = "point"   // the directory under the mount, locked against a second mount
	roleSource  = "source"  // tmpfs that regions are made on
	roleHeader  = "header"  // region: the header
	roleBuffers = "buffers" // region: request buffers
	roleFuse    = "fuse"    // a file of /dev/fuse: the first carried the mount, then a clone per reader
)

// held is what survives a worker: descriptors, nothing else. The worker that
// serves has copies of all of it, for the case that the keeper dies.
type held struct {
	point   *os.File
	source  *os.File // nil: regions are memfds
	header  *os.File // nil if the worker mounts, as are those below
	buffers *os.File
	fuse    []*os.File          // the mount's, then a clone per reader
	cpus    []int               // where the readers of the clones run
	layout  fuseconn.Layout     // of the request buffers
	regions map[string]*os.File // of devices, by name
}

// put keeps a region, in the place of one of the same name.
func (h *held) put(name string, f *os.File) {
	h.drop(name)
	if h.regions == nil {
		h.regions = make(map[string]*os.File)
	}
	h.regions[name] = f
}

func (h *held) drop(name string) {
	if f, ok := h.regions[name]; ok {
		f.Close()
		delete(h.regions, name)
	}
}

// base lists everything but the regions of devices: the roles, and the files in
// the same order.
func (h *held) base() (roles []string, files []*os.File) {
	add := func(role string, f *os.File) {
		if f != nil {
			roles, files = append(roles, role), append(files, f)
		}
	}
	add(rolePoint, h.point)
	add(roleSource, h.source)
	add(roleHeader, h.header)
	add(roleBuffers, h.buffers)
	for _, f := range h.fuse {
		add(roleFuse, f)
	}
	return roles, files
}

// take is the opposite of base.
func (h *held) take(roles []string, files []*os.File) error {
	if len(roles) != len(files) {
		return fmt.Errorf("%d descriptors came for %d roles: some are missing", len(files), len(roles))
	}
	for i, role := range roles {
		switch f := files[i]; role {
		case rolePoint:
			h.point = f
		case roleSource:
			h.source = f
		case roleHeader:
			h.header = f
		case roleBuffers:
			h.buffers = f
		case roleFuse:
			h.fuse = append(h.fuse, f)
		default:
			return fmt.Errorf("descriptor %d has the unknown role %q", i, role)
		}
	}
	if len(h.fuse) > 0 && (h.header == nil || h.buffers == nil || len(h.fuse) != 1+len(h.cpus)) {
		return fmt.Errorf("%d files of /dev/fuse for %d readers, or no header or buffers: some are missing",
			len(h.fuse), len(h.cpus))
	}
	return nil
}

// over says whether the kernel has ended the connection: nobody will ask
// anything any more.
func (h *held) over() bool {
	if len(h.fuse) == 0 {
		return false
	}
	fds := []unix.PollFd{{Fd: int32(h.fuse[0].Fd())}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n == 1 && fds[0].Revents&unix.POLLERR != 0
}

// close lets go of everything. With the last file of /dev/fuse the connection
// ends: whoever still waits for an answer gets an error.
func (h *held) close() {
	_, files := h.base()
	closeAll(files)
	for _, f := range h.regions {
		f.Close()
	}
	*h = held{}
}
