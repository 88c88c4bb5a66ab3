package fusefs

import (
	"fmt"
	"hash/fnv"
	"strconv"
	"strings"

	"github.com/zramfs/zramfs/blockdev"
)

// Nodes that exist whatever the devices. Numbers are never used again for
// something else.
const (
	nodeRoot      = 1
	nodeDev       = 2
	nodeSys       = 3
	nodeBlock     = 4
	nodeClass     = 5
	nodeControl   = 6
	nodeHotAdd    = 7
	nodeHotRemove = 8
	nodeKernel    = 9
	nodeDebug     = 10
	nodeZsmalloc  = 11
	nodeZram      = 12
)

// A node of a device carries the device's number above deviceShift, and below
// it what it is: one of kind*, or attributeBit and the hash of the attribute's
// directory and name.
const (
	deviceShift  = 33
	kindMask     = 1<<deviceShift - 1
	attributeBit = 1 << (deviceShift - 1)

	kindDisk     = 0 // dev/zramN
	kindBlock    = 1 // sys/block/zramN
	kindZramfs   = 2 // sys/block/zramN/zramfs
	kindZsmalloc = 3 // sys/kernel/debug/zsmalloc/zramN
	kindZram     = 4 // sys/kernel/debug/zram/zramN
)

func deviceNode(id int, kind uint64) uint64 { return uint64(id+1)<<deviceShift | kind }

// split gives the number of the device, -1 for a node of none, and its kind.
func split(node uint64) (id int, kind uint64) {
	return int(node>>deviceShift) - 1, node & kindMask
}

// dirOf gives the directory that a kind of node is for attributes.
func dirOf(kind uint64) (blockdev.Dir, bool) {
	switch kind {
	case kindBlock:
		return blockdev.DirBlock, true
	case kindZramfs:
		return blockdev.DirZramfs, true
	case kindZsmalloc:
		return blockdev.DirClasses, true
	case kindZram:
		return blockdev.DirDebug, true
	}
	return 0, false
}

// nameZramfs is the directory in a device's that the kernel's zram lacks.
const nameZramfs = "zramfs"

// entry is a name in a directory.
type entry struct {
	name string
	node uint64
	dir  bool
}

// fixed are the entries of the directories that belong to no device.
var fixed = map[uint64][]entry{
	nodeRoot:     {{"dev", nodeDev, true}, {"sys", nodeSys, true}},
	nodeDev:      nil,
	nodeSys:      {{"block", nodeBlock, true}, {"class", nodeClass, true}, {"kernel", nodeKernel, true}},
	nodeBlock:    nil,
	nodeClass:    {{"zram-control", nodeControl, true}},
	nodeControl:  {{"hot_add", nodeHotAdd, false}, {"hot_remove", nodeHotRemove, false}},
	nodeKernel:   {{"debug", nodeDebug, true}},
	nodeDebug:    {{"zsmalloc", nodeZsmalloc, true}, {"zram", nodeZram, true}},
	nodeZsmalloc: nil,
	nodeZram:     nil,
}

// perDevice are the directories with an entry for each device, and what kind
// of node that is.
var perDevice = map[uint64]uint64{
	nodeDev: kindDisk, nodeBlock: kindBlock, nodeZsmalloc: kindZsmalloc, nodeZram: kindZram,
}

// rows finds attributes by node and by directory.
type rows struct {
	byKind map[uint64]*blockdev.Attribute
	byDir  map[blockdev.Dir][]entry // node: the kind
}

// newRows gives each attribute its kind. It depends on nothing but the
// attribute's own name, unless two hash alike.
func newRows(table []blockdev.Attribute) rows {
	r := rows{byKind: make(map[uint64]*blockdev.Attribute), byDir: make(map[blockdev.Dir][]entry)}
	for i := range table {
		a := &table[i]
		h := fnv.New32a()
		fmt.Fprintf(h, "%d/%s", a.Dir, a.Name)
		kind := attributeBit | uint64(h.Sum32())
		for r.byKind[kind] != nil {
			kind = attributeBit | uint64(uint32(kind)+1)
		}
		r.byKind[kind] = a
		r.byDir[a.Dir] = append(r.byDir[a.Dir], entry{name: a.Name, node: kind})
	}
	return r
}

// list gives the entries of a directory, false if the node is none.
func (t *Tree) list(node uint64) ([]entry, bool) {
	if entries, ok := fixed[node]; ok {
		kind, has := perDevice[node]
		if !has {
			return entries, true
		}
		var all []entry
		for _, d := range t.set.Devices() {
			all = append(all, entry{deviceName(d.ID()), deviceNode(d.ID(), kind), kind != kindDisk})
		}
		if node == nodeDev {
			all = append(all, t.segmentEntries()...)
		}
		return all, true
	}
	id, kind := split(node)
	dir, ok := dirOf(kind)
	if !ok || t.device(id) == nil {
		return nil, false
	}
	rows := t.rows.byDir[dir]
	all := make([]entry, 0, len(rows)+1)
	for _, e := range rows {
		e.node = deviceNode(id, e.node)
		all = append(all, e)
	}
	if kind == kindBlock {
		all = append(all, entry{nameZramfs, deviceNode(id, kindZramfs), true})
	}
	return all, true
}

// find looks a name up in a directory; node 0: there is no such file.
func (t *Tree) find(dir uint64, name string) (node uint64) {
	if kind, ok := perDevice[dir]; ok {
		if id := deviceNumber(name); t.device(id) != nil {
			return deviceNode(id, kind)
		}
		if dir == nodeDev {
			return t.findSegment(name)
		}
		return 0
	}
	for _, e := range fixed[dir] {
		if e.name == name {
			return e.node
		}
	}
	return t.findRow(dir, name)
}

// findRow looks a name up in a directory of a device. Without making a list:
// who reads attributes does so by name, and garbage is collected rarely.
func (t *Tree) findRow(dir uint64, name string) (node uint64) {
	id, kind := split(dir)
	rows, ok := dirOf(kind)
	if !ok || t.device(id) == nil {
		return 0
	}
	for _, e := range t.rows.byDir[rows] {
		if e.name == name {
			return deviceNode(id, e.node)
		}
	}
	if kind == kindBlock && name == nameZramfs {
		return deviceNode(id, kindZramfs)
	}
	return 0
}

// attribute gives the row and device of an attribute file; nil if it is none.
func (t *Tree) attribute(node uint64) (*blockdev.Attribute, *blockdev.Device) {
	id, kind := split(node)
	a := t.rows.byKind[kind]
	if a == nil {
		return nil, nil
	}
	return a, t.device(id)
}

// device finds a device that is in the set; nil if it is not.
func (t *Tree) device(id int) *blockdev.Device {
	if id < 0 || id >= maxDevices {
		return nil
	}
	return t.set.Device(id)
}

func deviceName(id int) string { return "zram" + strconv.Itoa(id) }

// deviceNumber is the N of zramN; -1 for any other name.
func deviceNumber(name string) int {
	digits, ok := strings.CutPrefix(name, "zram")
	id, err := strconv.Atoi(digits)
	if !ok || err != nil || id < 0 || deviceName(id) != name {
		return -1
	}
	return id
}
