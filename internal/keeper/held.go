package keeper

import (
	"os"

	"github.com/zramfs/zramfs/internal/fuseconn"
)

// held is what survives a worker: descriptors, nothing else.
type held struct {
	fuse    []*os.File      // the mount's, then a clone per reader; nil if the worker mounts
	cpus    []int           // where the readers of the clones run
	layout  fuseconn.Layout // of the request buffers
	header  *os.File
	buffers *os.File
	regions map[string]*os.File // of devices, by name
}

// take handles a message that adds a region or lets go of one.
func (h *held) take(in incoming) {
	switch {
	case in.Kind == msgRegion && in.file != nil:
		h.drop(in.Name)
		if h.regions == nil {
			h.regions = make(map[string]*os.File)
		}
		h.regions[in.Name] = in.file
		return
	case in.Kind == msgDrop:
		h.drop(in.Name)
	}
	if in.file != nil {
		in.file.Close()
	}
}

func (h *held) drop(name string) {
	if f, ok := h.regions[name]; ok {
		f.Close()
		delete(h.regions, name)
	}
}

// list names everything, and the files in the same order.
func (h *held) list() ([]descriptor, []*os.File) {
	var names []descriptor
	var files []*os.File
	add := func(role, name string, f *os.File) {
		if f != nil {
			names, files = append(names, descriptor{role, name}), append(files, f)
		}
	}
	for _, f := range h.fuse {
		add(roleFuse, "", f)
	}
	add(roleHeader, "", h.header)
	add(roleBuffers, "", h.buffers)
	for name, f := range h.regions {
		add(roleRegion, name, f)
	}
	return names, files
}

// close lets go of everything. With the last file of /dev/fuse the connection
// ends: whoever still waits for an answer gets an error.
func (h *held) close() {
	_, files := h.list()
	for _, f := range files {
		f.Close()
	}
	*h = held{}
}
