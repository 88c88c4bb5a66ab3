package pool

import "fmt"

const (
	// PageSize is the size of a page in bytes, the only one zramfs knows.
	PageSize = 4096
	// HeaderSize is what every object but a huge page carries in front: owner
	// and CRC-32C, as long as the handle that zsmalloc puts there.
	HeaderSize = 8
	// MaxChain is the longest zspage in pages: what one search word can show.
	MaxChain = 8

	granule     = 16 // bytes; sizes and places are multiples of it
	minSize     = 32 // bytes; the smallest class
	maxObjects  = PageSize / minSize * MaxChain
	wordsByPage = PageSize / minSize / 64 // bitmap words that a page brings to its zspage
)

// class is a size class: objects of one size in zspages of one length.
type class struct {
	size    uint32 // bytes, header included; multiple of granule
	pages   uint32 // of a zspage
	objects uint32 // in a zspage
	index   uint32 // zsmalloc's number for it: (size - minSize) / granule
}

// Geometry is the table of size classes, zsmalloc's. It is immutable.
//
// For each size the zspage's length is the one, of 1 to chain pages, that uses
// the highest whole percentage of its bytes; among equals the shortest. So if
// the end of an object falls on the end of the m-th page of a zspage, m is the
// zspage's length: m pages would use 100 %, and a longer zspage uses no more.
// Hence no two objects of a zspage start at the same offset in a page, and the
// place of an object and its class tell where its zspage starts.
type Geometry struct {
	chain   int
	classes []class                     // ascending by size; the last is for huge pages
	of      [PageSize/granule + 1]uint8 // class of an object, by its granules, header included
}

// NewGeometry builds the table for zspages of at most chain pages, 1 to MaxChain.
func NewGeometry(chain int) (*Geometry, error) {
	if chain < 1 || chain > MaxChain {
		return nil, fmt.Errorf("pool: geometry: chain of %d pages is not within 1 to %d", chain, MaxChain)
	}
	// From the largest down, as neighbours merge into the larger.
	var down []class
	for size := PageSize; size >= minSize; size -= granule {
		pages := zspagePages(size, chain)
		c := class{
			size:    uint32(size),
			pages:   uint32(pages),
			objects: uint32(pages * PageSize / size),
			index:   uint32((size - minSize) / granule),
		}
		if n := len(down); n == 0 || down[n-1].pages != c.pages || down[n-1].objects != c.objects {
			down = append(down, c)
		}
	}
	g := &Geometry{chain: chain, classes: make([]class, len(down))}
	for i, c := range down {
		g.classes[len(down)-1-i] = c
	}
	k := 0
	for i := range g.of {
		if uint32(i*granule) > g.classes[k].size {
			k++
		}
		g.of[i] = uint8(k)
	}
	return g, nil
}

// zspagePages is zsmalloc's calculate_zspage_chain_size before Linux 6.14.
func zspagePages(size, chain int) int {
	best, length := 0, 1
	for pages := 1; pages <= chain; pages++ {
		bytes := pages * PageSize
		if percent := (bytes - bytes%size) * 100 / bytes; percent > best {
			best, length = percent, pages
		}
	}
	return length
}

// HugeSize is the length in bytes from which a page is stored raw: the
// shortest that does not fit, with its header, below the class of huge pages.
func (g *Geometry) HugeSize() int {
	return int(g.classes[len(g.classes)-2].size) - HeaderSize + 1
}

// hugeClass is the number of the class of raw pages.
func (g *Geometry) hugeClass() uint8 { return uint8(len(g.classes) - 1) }

// Class numbers the size class that stores n bytes, 0 < n < HugeSize or
// n = PageSize: of two lengths in one class neither takes less memory.
func (g *Geometry) Class(n int) int { return int(g.classOf(n)) }

// classOf is the class that stores n bytes, 0 < n < HugeSize or n = PageSize.
func (g *Geometry) classOf(n int) uint8 {
	if n == PageSize {
		return g.hugeClass()
	}
	return g.of[(n+HeaderSize+granule-1)/granule]
}

// stores says whether n is a length that the pool takes.
func (g *Geometry) stores(n int) bool { return n == PageSize || n > 0 && n < g.HugeSize() }

// start finds the zspage of class c that has an object at byte off of the
// arena, and the object's number in it. There is at most one (see Geometry).
func (c *class) start(off uint64) (page, object uint32, ok bool) {
	page = uint32(off / PageSize)
	for back := uint32(0); back < c.pages && back <= page; back++ {
		in := uint32(off - uint64(page-back)*PageSize)
		if in%c.size == 0 && in/c.size < c.objects {
			return page - back, in / c.size, true
		}
	}
	return 0, 0, false
}
