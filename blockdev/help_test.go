package blockdev

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/zramfs/zramfs/compress"
	"github.com/zramfs/zramfs/internal/shm"
	"github.com/zramfs/zramfs/internal/testpages"
)

// source makes regions for tests and keeps count of them.
type source struct {
	*shm.Source
	open int
}

func (s *source) Create(name string, size int64) (*shm.Region, error) {
	r, err := s.Source.Create(name, size)
	if err == nil {
		s.open++
	}
	return r, err
}

func (s *source) Drop(_ string, r *shm.Region) {
	s.open--
	if err := r.Close(); err != nil {
		panic(err)
	}
}

func newSource(tb testing.TB) *source {
	s := &source{Source: shm.OpenSource()}
	tb.Cleanup(func() {
		if s.open != 0 {
			tb.Errorf("%d regions were not given back", s.open)
		}
		if err := s.Source.Close(); err != nil {
			tb.Error(err)
		}
	})
	return s
}

func params(tb testing.TB, text string) compress.Params {
	tb.Helper()
	p, err := compress.ParseAlgorithm(text)
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

// testConfig is small and quick to make.
func testConfig(tb testing.TB) Config {
	return Config{
		Source:      newSource(tb),
		Streams:     2,
		Algorithm:   params(tb, "lz4"),
		ReserveLow:  2 << 20,
		ReserveHigh: 4 << 20,
		LimitWait:   -1, // or every write that is to be refused takes its time
	}
}

// newDevice makes an initialised device, which is checked and closed when the
// test ends.
func newDevice(tb testing.TB, size int64, cfg Config) *Device {
	tb.Helper()
	set, err := NewSet(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	id, err := set.HotAdd()
	if err != nil {
		tb.Fatal(err)
	}
	d := set.Device(id)
	tb.Cleanup(func() {
		if err := d.Check(); err != nil {
			tb.Errorf("Check: %v", err)
		}
		if err := set.Close(); err != nil {
			tb.Error(err)
		}
	})
	if size > 0 {
		if err := d.SetSize(size); err != nil {
			tb.Fatal(err)
		}
	}
	return d
}

// stamped gives a copy of a real page that no other call gives.
func stamped(tb testing.TB, n uint64) []byte {
	pages := testpages.Pages(tb)
	p := bytes.Clone(pages[n%uint64(len(pages))])
	binary.LittleEndian.PutUint64(p[int(n%500)*8:], n)
	return p
}

// randomPage gives a page of any kind that a disk sees.
func randomPage(tb testing.TB, r *rand.Rand) []byte {
	p := make([]byte, PageSize)
	switch r.IntN(10) {
	case 0: // zeroes
	case 1: // one 32-bit pattern
		fill(p, uint64(r.Uint32())*0x1_0000_0001, 0)
	case 2: // an element for the side table
		fill(p, r.Uint64(), 0)
	case 3: // incompressible
		for i := 0; i < PageSize; i += 8 {
			binary.LittleEndian.PutUint64(p[i:], r.Uint64())
		}
	default:
		return stamped(tb, r.Uint64())
	}
	return p
}

// incompressible gives a page that no codec makes smaller.
func incompressible() []byte {
	p := make([]byte, PageSize)
	for i := 0; i < PageSize; i += 8 {
		binary.LittleEndian.PutUint64(p[i:], rand.Uint64())
	}
	return p
}

// write and read insist on the whole length.
func write(tb testing.TB, d *Device, p []byte, off int64) {
	tb.Helper()
	if n, err := d.WriteAt(p, off); err != nil || n != len(p) {
		tb.Fatalf("write of %d at %d: %d, %v", len(p), off, n, err)
	}
}

func read(tb testing.TB, d *Device, n int, off int64) []byte {
	tb.Helper()
	p := make([]byte, n)
	if got, err := d.ReadAt(p, off); err != nil || got != n {
		tb.Fatalf("read of %d at %d: %d, %v", n, off, got, err)
	}
	return p
}

func wantPage(tb testing.TB, d *Device, slot uint64, want []byte) {
	tb.Helper()
	if got := read(tb, d, PageSize, int64(slot)*PageSize); !bytes.Equal(got, want) {
		tb.Fatalf("slot %d: %s", slot, firstDifference(got, want))
	}
}

func firstDifference(got, want []byte) string {
	for i := range got {
		if got[i] != want[i] {
			return fmt.Sprintf("byte %d is %#x, want %#x", i, got[i], want[i])
		}
	}
	return "equal"
}

func show(tb testing.TB, d *Device, name string) string {
	tb.Helper()
	for _, a := range Attributes() {
		if a.Name == name {
			if a.ShowAt != nil {
				return showParts(tb, d, &a, 1<<16)
			}
			b, err := a.Show(d, nil)
			if err != nil {
				tb.Fatalf("%s: %v", name, err)
			}
			return string(b)
		}
	}
	tb.Fatalf("no attribute %s", name)
	return ""
}

// showParts reads an attribute in parts of so many bytes.
func showParts(tb testing.TB, d *Device, a *Attribute, part int) string {
	tb.Helper()
	var text []byte
	for b := make([]byte, part); ; {
		n, err := a.ShowAt(d, b, int64(len(text)))
		if err != nil {
			tb.Fatalf("%s: %v", a.Name, err)
		}
		if n == 0 {
			return string(text)
		}
		text = append(text, b[:n]...)
	}
}

func store(d *Device, name, value string) error {
	for _, a := range Attributes() {
		if a.Name == name {
			return a.Do(context.Background(), d, value)
		}
	}
	return fmt.Errorf("no attribute %s", name)
}
