package image

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"testing"
)

// records is a file's worth of every kind.
func records() []Record {
	page := make([]byte, PageSize)
	for i := range page {
		page[i] = byte(i * 7)
	}
	return []Record{
		{Kind: Params, Number: 0, Payload: AppendParams(nil, "lz4", nil)},
		{Kind: Same, Page: 0, Payload: binary.LittleEndian.AppendUint64(nil, 0x1234)},
		{Kind: Compressed, Number: 0, Page: 3, Payload: page[:77]},
		{Kind: Params, Number: 5, Payload: AppendParams(nil, "zstd(level=3)", page[:100])},
		{Kind: Compressed, Number: 5, Page: 4, Payload: page[:1]},
		{Kind: Raw, Page: 5, Payload: page},
		{Kind: Lost, Page: 9},
	}
}

func write(t testing.TB, h Header, all []Record) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := NewWriter(&b, h)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range all {
		if err := w.Put(r); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if w.Bytes() != int64(b.Len()) {
		t.Errorf("the writer counts %d bytes of %d", w.Bytes(), b.Len())
	}
	return b.Bytes()
}

func read(file []byte) (h Header, all []Record, err error) {
	r, err := NewReader(bytes.NewReader(file))
	if err != nil {
		return h, nil, err
	}
	for {
		rec, err := r.Next()
		if err == io.EOF {
			return r.Header, all, nil
		}
		if err != nil {
			return r.Header, all, err
		}
		rec.Payload = slices.Clone(rec.Payload)
		all = append(all, rec)
	}
}

func TestRoundTrip(t *testing.T) {
	want := Header{Pages: 10, Flags: Live, Time: 1234567890}
	h, got, err := read(write(t, want, records()))
	if err != nil || h != want {
		t.Fatalf("%+v, %v", h, err)
	}
	if len(got) != len(records()) {
		t.Fatalf("%d records of %d", len(got), len(records()))
	}
	for i, w := range records() {
		if g := got[i]; g.Kind != w.Kind || g.Number != w.Number || g.Page != w.Page || !bytes.Equal(g.Payload, w.Payload) {
			t.Errorf("record %d is %+v, want %+v", i, g, w)
		}
	}
	if text, dict := got[3].Params(); text != "zstd(level=3)" || len(dict) != 100 {
		t.Errorf("parameters %q with %d bytes of dictionary", text, len(dict))
	}
	if got[1].Element() != 0x1234 {
		t.Errorf("element %#x", got[1].Element())
	}
}

// Every bit of a file that flips is found, every byte that is missing, and
// every byte too many.
func TestDamageIsFound(t *testing.T) {
	file := write(t, Header{Pages: 10}, records())
	wanted := func(err error) bool {
		return errors.Is(err, ErrDamaged) || errors.Is(err, ErrForeign) || errors.Is(err, ErrVersion)
	}
	for i := range file {
		for bit := range 8 {
			if i > 400 && i < len(file)-100 && bit != i%8 {
				continue // in the middle of a page
			}
			file[i] ^= 1 << bit
			if _, _, err := read(file); !wanted(err) {
				t.Errorf("byte %d, bit %d flipped: %v", i, bit, err)
			}
			file[i] ^= 1 << bit
		}
		if _, _, err := read(file[:i]); !wanted(err) {
			t.Errorf("cut at byte %d: %v", i, err)
		}
	}
	if _, _, err := read(append(slices.Clone(file), 0)); !wanted(err) {
		t.Errorf("a byte too many: %v", err)
	}
}

// Records that are each right, but out of place, are damage.
func TestOrder(t *testing.T) {
	same := func(page uint64) Record { return Record{Kind: Same, Page: page, Payload: make([]byte, 8)} }
	for what, all := range map[string][]Record{
		"a page twice":          {same(1), same(1)},
		"pages out of order":    {same(2), same(1)},
		"a page behind the end": {same(10)},
		"unknown parameters":    {{Kind: Compressed, Number: 3, Page: 1, Payload: []byte{1}}},
		"parameters twice":      {records()[0], records()[0]},
		"a record of no file":   {{Kind: Next, Page: 3}},
		"an unknown kind":       {{Kind: 99, Page: 3}},
		"a long element":        {{Kind: Same, Page: 3, Payload: make([]byte, 9)}},
		"a short page":          {{Kind: Raw, Page: 3, Payload: make([]byte, 9)}},
		"short parameters":      {{Kind: Params, Payload: []byte{9, 0, 0, 0, 1}}},
	} {
		if _, _, err := read(write(t, Header{Pages: 10}, all)); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", what, err)
		}
	}
	// A record of one file in another.
	a, b := write(t, Header{Pages: 10}, []Record{same(1), same(2)}), write(t, Header{Pages: 10}, []Record{same(1), same(3)})
	n := HeaderSize + HeadSize + 8
	copy(a[n:], b[n:n+HeadSize+8])
	if _, _, err := read(a); !errors.Is(err, ErrDamaged) {
		t.Errorf("a record of another file: %v", err)
	}
}

func FuzzReader(f *testing.F) {
	f.Add(write(f, Header{Pages: 10}, records()))
	f.Fuzz(func(t *testing.T, file []byte) {
		h, all, err := read(file)
		if err == nil && len(all) == 0 && len(file) != HeaderSize+HeadSize+40 {
			t.Errorf("%+v: %d bytes without records", h, len(file))
		}
	})
}
