package blockdev

import (
	"bytes"
	"encoding/binary"
	"testing"

	"pgregory.net/rapid"
)

func TestSameFilled(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e := rapid.Uint64().Draw(t, "element")
		page := bytes.Repeat(binary.NativeEndian.AppendUint64(nil, e), wordsPerPage)
		if got, ok := sameFilled(page); !ok || got != e {
			t.Fatalf("page of %#x: %#x, %v", e, got, ok)
		}
		off := rapid.IntRange(0, PageSize-1).Draw(t, "off")
		n := rapid.IntRange(1, PageSize-off).Draw(t, "n")
		part := make([]byte, n)
		fill(part, e, off)
		if !bytes.Equal(part, page[off:off+n]) {
			t.Fatalf("fill of %d bytes from %d differs", n, off)
		}
		i := rapid.IntRange(0, PageSize-1).Draw(t, "changed byte")
		page[i] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		if _, ok := sameFilled(page); ok {
			t.Fatalf("a page with byte %d changed passes as same-filled", i)
		}
	})
}

func TestSameWordTakesNoTableForRepeatedPatterns(t *testing.T) {
	for _, c := range []struct {
		element uint64
		inTable bool
	}{{0, false}, {0xffffffffffffffff, false}, {0xdeadbeefdeadbeef, false}, {0x00000001_00000002, true}} {
		if inTable := sameWord(7, c.element).inTable(); inTable != c.inTable {
			t.Errorf("element %#x: in the table %v, want %v", c.element, inTable, c.inTable)
		}
	}
}
