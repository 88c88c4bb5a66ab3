package compress

import (
	"bytes"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/zramfs/zramfs/internal/testpages"
	"github.com/zramfs/zramfs/stable"
)

func TestSetAdd(t *testing.T) {
	s := NewSet(3)
	dict := bytes.Repeat([]byte("a dictionary "), 20)
	for i, c := range []struct {
		p    Params
		want uint8
	}{
		{Params{Codec: "lz4"}, 0},
		{Params{Codec: "zstd"}, 1},
		{Params{Codec: "lz4", Level: 1}, 0}, // the default by number
		{Params{Codec: "zstd", Level: 3}, 1},
		{Params{Codec: "zstd", Dict: dict}, 2},
		{Params{Codec: "zstd", Dict: bytes.Clone(dict)}, 2},
		{Params{Codec: "lz4", Level: 2}, 3},
	} {
		if id, err := s.Add(c.p); err != nil || id != c.want {
			t.Errorf("%d: %v has index %d, %v; want %d", i, c.p, id, err, c.want)
		}
	}
	dict[0] = 'X'
	if p, ok := s.Params(2); !ok || p.Dict[0] != 'a' {
		t.Error("the dictionary changed with the caller's")
	}
	for _, bad := range []struct {
		p    Params
		want error
	}{
		{Params{Codec: "lzo"}, ErrUnknown},
		{Params{Codec: "lz4", Level: -1}, ErrInvalid},
		{Params{Codec: "lz4hc", Dict: dict}, ErrInvalid},
		{Params{Codec: "zstd", Dict: []byte{0x37, 0xa4, 0x30, 0xec, 1, 2, 3, 4, 5}}, ErrInvalid},
	} {
		if _, err := s.Add(bad.p); !errors.Is(err, bad.want) {
			t.Errorf("%v: %v, want %v", bad.p, err, bad.want)
		}
	}
	if s.Len() != 4 {
		t.Errorf("%d Params", s.Len())
	}
	for level := 3; s.Len() < MaxParams; level++ {
		if _, err := s.Add(Params{Codec: "lz4", Level: level}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Add(Params{Codec: "none"}); !errors.Is(err, ErrFull) {
		t.Errorf("a seventeenth: %v", err)
	}
	if id, err := s.Add(Params{Codec: "zstd"}); err != nil || id != 1 {
		t.Errorf("an old one in a full set: %d, %v", id, err)
	}
	if _, ok := s.Params(MaxParams); ok {
		t.Error("index 16 has Params")
	}
	if s.Streams() != 3 || s.Stream(4) != s.Stream(1) {
		t.Error("streams do not go round")
	}
}

func TestUnknownIndex(t *testing.T) {
	st := one(t, Params{Codec: "lz4"})
	for _, id := range []uint8{1, 15, 16, 255} {
		if err := st.Decompress(id, make([]byte, PageSize), []byte{0}); err != ErrCorrupt {
			t.Errorf("index %d: %v", id, err)
		}
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("index %d compresses", id)
				}
			}()
			_, _ = st.compress(id, new([PageSize]byte))
		}()
	}
}

// Streams compress, each its own pages, while Params are added; what one writes another reads.
func TestAddWhileStreamsRun(t *testing.T) {
	const streams = 4
	s := NewSet(streams)
	if _, err := s.Add(Params{Codec: "lz4"}); err != nil {
		t.Fatal(err)
	}
	pages := sample(t, 400)
	var stop atomic.Bool
	var group sync.WaitGroup
	errs := make(chan error, streams)
	for i := range streams {
		group.Add(1)
		go func() {
			defer group.Done()
			out := make([]byte, PageSize)
			for n := i; !stop.Load(); n++ {
				page := pages[n%len(pages)]
				id := uint8(n % s.Len())
				mine, other := s.Stream(i), s.Stream(i+1)
				mine.Lock()
				c, err := mine.Compress(id, stable.Borrow(page, nil))
				c = bytes.Clone(c)
				mine.Unlock()
				if err != nil {
					continue
				}
				other.Lock()
				err = other.Decompress(id, out, c)
				other.Unlock()
				if err != nil || !bytes.Equal(out, page) {
					errs <- fmt.Errorf("params %d, page %d: %v", id, n%len(pages), err)
					return
				}
			}
		}()
	}
	for _, p := range every() {
		if p.Level <= 2 && s.Len() < MaxParams {
			if _, err := s.Add(p); err != nil {
				t.Error(err)
			}
		}
	}
	stop.Store(true)
	group.Wait()
	close(errs)
	for err := range errs {
		t.Error(err)
	}
}

// What the spare stream compresses, all streams read; it has indexes of its own,
// and streams that only read have none of what compresses.
func TestSpare(t *testing.T) {
	s := NewSet(2)
	dict := bytes.Join(testpages.Pages(t)[:8], nil)
	back := make([]byte, PageSize)
	for _, p := range []Params{{Codec: "lz4"}, {Codec: "lz4", Dict: dict}, {Codec: "lz4hc"}, {Codec: "zstd"}, {Codec: "zstd", Dict: dict},
		{Codec: "minlz"}, {Codec: "s2"}, {Codec: "deflate"}} {
		id, err := s.AddSpare(p)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := s.AddSpare(p); again != id || err != nil {
			t.Errorf("%v: %d, then %d, %v", p, id, again, err)
		}
		for _, page := range testpages.Pages(t)[100:115] {
			sp := s.Spare()
			sp.Lock()
			out, err := sp.compress(id, (*[PageSize]byte)(page))
			out = bytes.Clone(out)
			sp.Unlock()
			if err != nil {
				continue
			}
			for i := range 2 {
				st := s.Stream(i)
				st.Lock()
				if err := st.Decompress(id, back, out); err != nil || !bytes.Equal(back, page) {
					t.Errorf("%v: stream %d reads another page: %v", p, i, err)
				}
				st.Unlock()
			}
		}
	}
	spare, err := s.AddSpare(Params{Codec: "zstd"})
	if err != nil {
		t.Fatal(err)
	}
	if own, err := s.Add(Params{Codec: "zstd"}); err != nil || own == spare {
		t.Errorf("index %d for streams and for the spare one: %v", own, err)
	}
	if c := s.Stream(0).codecs[spare].(*zstdCodec); c.enc != nil {
		t.Error("a stream has an encoder that it never uses")
	}
}
