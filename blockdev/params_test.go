package blockdev

import (
	"bytes"
	"testing"

	"github.com/zramfs/zramfs/compress"
)

// A disk of a program that kept zstd's frames is read, and goes on with frames:
// that program may have to take it back. After a reset there are none.
func TestFramesOfOlderProgram(t *testing.T) {
	h, ledger := newHolder(t), make([]byte, LedgerBytes)
	cfg := testConfig(t)
	cfg.Source, cfg.Ledger = h, ledger
	cfg.Algorithm = compress.Params{Codec: "zstd", Framed: true}
	s, err := NewSet(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.HotAdd(); err != nil {
		t.Fatal(err)
	}
	d := s.Device(0)
	mustStore(t, d, "disksize", "2M")
	framed := func(slot uint64) bool {
		k := d.disk.Load()
		object, err := k.object(slot, k.table.load(slot))
		if err != nil {
			t.Fatal(err)
		}
		return bytes.HasPrefix(object, []byte{0x28, 0xb5, 0x2f, 0xfd})
	}
	for i := range uint64(100) {
		write(t, d, stamped(t, 1900+i), int64(i)*PageSize)
	}
	s.Abandon()

	s, _ = generation(t, h, ledger)
	d = s.Device(0)
	for i := range uint64(100) {
		wantPage(t, d, i, stamped(t, 1900+i))
		write(t, d, stamped(t, 1900+i), int64(100+i)*PageSize)
	}
	if !framed(0) || !framed(100) {
		t.Errorf("frames before %v, after %v", framed(0), framed(100))
	}
	if n := d.disk.Load().rowCount.Load(); n != 1 {
		t.Errorf("%d rows of parameters", n)
	}
	s.Abandon() // what was written in the older format is read again

	s, _ = generation(t, h, ledger)
	d = s.Device(0)
	for i := range uint64(200) {
		wantPage(t, d, i, stamped(t, 1900+i%100))
	}
	if err := d.Check(); err != nil {
		t.Fatal(err)
	}
	if err := d.Reset(); err != nil {
		t.Fatal(err)
	}
	mustStore(t, d, "comp_algorithm", "zstd")
	mustStore(t, d, "disksize", "2M")
	write(t, d, stamped(t, 1900), 0)
	if framed(0) {
		t.Error("a new disk keeps frames")
	}
	s.Abandon()
	s, _ = generation(t, h, ledger)
	d = s.Device(0)
	wantPage(t, d, 0, stamped(t, 1900))
	closeSet(t, s)
}
