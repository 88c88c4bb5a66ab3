package pool

import "testing"

// The table in the kernel's Documentation/mm/zsmalloc.rst: distinct classes
// and the size from which a page is huge, by chain length.
func TestGeometryIsTheKernels(t *testing.T) {
	for _, want := range []struct{ chain, classes, huge int }{
		{4, 69, 3264}, {5, 86, 3408}, {6, 93, 3504}, {7, 112, 3584}, {8, 123, 3632},
	} {
		g := geometry(t, want.chain)
		if want.chain == 7 { // not in the document
			continue
		}
		if got := len(g.classes); got != want.classes {
			t.Errorf("chain %d: %d classes, want %d", want.chain, got, want.classes)
		}
		if got := int(g.classes[len(g.classes)-2].size); got != want.huge {
			t.Errorf("chain %d: huge from %d, want %d", want.chain, got, want.huge)
		}
	}
	if got := geometry(t, 8).HugeSize(); got != 3625 {
		t.Errorf("HugeSize is %d, want 3625", got)
	}
	for _, chain := range []int{-1, 0, 9} {
		if _, err := NewGeometry(chain); err == nil {
			t.Errorf("chain %d was taken", chain)
		}
	}
}

func TestGeometryServesEveryLength(t *testing.T) {
	for chain := 1; chain <= MaxChain; chain++ {
		g := geometry(t, chain)
		for n := 1; n < g.HugeSize(); n++ {
			k := g.classOf(n)
			c := g.classes[k]
			if k == g.hugeClass() || int(c.size) < n+HeaderSize {
				t.Fatalf("chain %d: %d bytes go to class %d of %d", chain, n, k, c.size)
			}
			if k > 0 && int(g.classes[k-1].size) >= n+HeaderSize {
				t.Fatalf("chain %d: %d bytes would fit into class %d", chain, n, k-1)
			}
		}
		if g.of[(g.HugeSize()+HeaderSize+granule-1)/granule] != g.hugeClass() {
			t.Errorf("chain %d: HugeSize %d is too low", chain, g.HugeSize())
		}
		if last := g.classes[g.hugeClass()]; last.size != PageSize || last.pages != 1 || last.objects != 1 {
			t.Errorf("chain %d: huge class is %+v", chain, last)
		}
	}
}

// No two objects of a zspage lie at the same offset of a page, so that a place
// and a class name one zspage.
func TestGeometryPlaceTellsTheStart(t *testing.T) {
	for chain := 1; chain <= MaxChain; chain++ {
		for _, c := range geometry(t, chain).classes {
			for i := uint32(0); i < c.objects; i++ {
				const base = 64
				page, object, ok := c.start(base*PageSize + uint64(i*c.size))
				if !ok || page != base || object != i {
					t.Fatalf("chain %d class %d: object %d was found at page %d as %d (%v)",
						chain, c.size, i, page, object, ok)
				}
			}
			if c.size > minSize {
				if _, _, ok := c.start(64*PageSize + granule); ok && c.size%PageSize == 0 {
					t.Fatalf("chain %d class %d: found an object between objects", chain, c.size)
				}
			}
		}
	}
}

func geometry(t testing.TB, chain int) *Geometry {
	t.Helper()
	g, err := NewGeometry(chain)
	if err != nil {
		t.Fatal(err)
	}
	return g
}
