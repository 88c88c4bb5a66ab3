package blockdev

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zramfs/zramfs/internal/shm"
)

// holder makes regions and holds them by name, as what outlives a worker does.
type holder struct {
	*shm.Source
	held map[string]*os.File
}

func newHolder(tb testing.TB) *holder {
	h := &holder{Source: shm.OpenSource(), held: make(map[string]*os.File)}
	tb.Cleanup(func() {
		for name := range h.held {
			tb.Errorf("region %s was not given back", name)
		}
		if err := h.Source.Close(); err != nil {
			tb.Error(err)
		}
	})
	return h
}

func (h *holder) Create(name string, size int64) (*shm.Region, error) {
	r, err := h.Source.Create(name, size)
	if err != nil {
		return nil, err
	}
	f, err := reopen(r)
	if err != nil {
		return nil, errors.Join(err, r.Close())
	}
	h.let(name)
	h.held[name] = f
	return r, nil
}

func (h *holder) Drop(name string, r *shm.Region) {
	h.let(name)
	if err := r.Close(); err != nil {
		panic(err)
	}
}

func (h *holder) let(name string) {
	if f := h.held[name]; f != nil {
		f.Close()
		delete(h.held, name)
	}
}

// regions maps everything that is held, as the next process does.
func (h *holder) regions(tb testing.TB) map[string]*shm.Region {
	tb.Helper()
	all := make(map[string]*shm.Region)
	for name, f := range h.held {
		g, err := reopenFile(f)
		if err != nil {
			tb.Fatal(err)
		}
		if all[name], err = shm.Adopt(name, g); err != nil {
			tb.Fatal(err)
		}
	}
	return all
}

func reopen(r *shm.Region) (*os.File, error) { return reopenFile(r.File()) }

func reopenFile(f *os.File) (*os.File, error) {
	fd, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// remap maps a region as the next process does: nothing of it is in the page
// tables yet.
func remap(r *shm.Region) (*shm.Region, error) {
	f, err := reopen(r)
	if err != nil {
		return nil, err
	}
	return shm.Adopt(r.Name(), f)
}

// generation makes the set of the next worker over a ledger.
func generation(tb testing.TB, h *holder, ledger []byte) (*Set, Recovered) {
	tb.Helper()
	cfg := testConfig(tb)
	cfg.Source, cfg.Ledger = h, ledger
	s, err := NewSet(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	found, err := s.Adopt(h.regions(tb))
	if err != nil {
		tb.Fatal(err)
	}
	return s, found
}

func closeSet(tb testing.TB, s *Set) {
	tb.Helper()
	for _, d := range s.Devices() {
		if err := d.Check(); err != nil {
			tb.Errorf("Check of %s: %v", d.Name(), err)
		}
	}
	if err := s.Close(); err != nil {
		tb.Error(err)
	}
}

// Everything that can be set, and every counter, is as it was after a death.
func TestAdopt(t *testing.T) {
	h, ledger := newHolder(t), make([]byte, LedgerBytes)
	s, found := generation(t, h, ledger)
	if found != (Recovered{}) {
		t.Errorf("a new ledger has %+v", found)
	}
	for range 3 {
		if _, err := s.HotAdd(); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.HotRemove(1); err != nil {
		t.Fatal(err)
	}
	d := s.Device(0)
	set := func(d *Device, name, value string) {
		t.Helper()
		if err := store(d, name, value); err != nil {
			t.Fatal(err)
		}
	}
	set(d, "comp_algorithm", "zstd")
	set(d, "algorithm_params", "level=7")
	set(d, "stable", "wait")
	set(d, "write_behind", "8")
	set(d, "disksize", "4M")
	set(d, "mem_limit", "3M")
	set(d, "stable_stat", "16")
	set(s.Device(2), "write_behind", "5")
	for slot := range uint64(600) {
		write(t, d, stamped(t, slot), int64(slot)*PageSize)
	}
	if err := d.Discard(0, 300*PageSize); err != nil {
		t.Fatal(err)
	}
	set(d, "compact", "1")
	read(t, d, 10*PageSize, 400*PageSize)
	for k := d.disk.Load(); k.frames.InUse() != 0; { // what is staged gets compressed
		time.Sleep(time.Millisecond)
	}
	if err := d.Check(); err != nil {
		t.Fatal(err)
	}
	names := []string{"comp_algorithm", "algorithm", "stable", "write_behind", "disksize", "stable_stat", "io_stat"}
	shown := func(d *Device) map[string]string {
		all := make(map[string]string)
		for _, name := range names {
			all[name] = show(t, d, name)
		}
		m := strings.Fields(show(t, d, "mm_stat"))
		all["limit, max, compacted, since"] = fmt.Sprint(m[3], m[4], m[6])
		return all
	}
	before := shown(d)
	if m := strings.Fields(before["limit, max, compacted, since"]); m == nil || !strings.Contains(before["stable_stat"], "audit_one_in 16") {
		t.Fatalf("%v", before)
	}
	changes := s.Changes()
	s.Abandon()

	s, found = generation(t, h, ledger)
	if found.Devices != 2 || found.Pages != 300 || found.Corrupt != 0 {
		t.Errorf("found %+v", found)
	}
	if s.Device(1) != nil || s.Device(2) == nil {
		t.Fatal("not the devices that there were")
	}
	if s.Changes() != changes {
		t.Errorf("%d changes, there were %d", s.Changes(), changes)
	}
	d = s.Device(0)
	if after := shown(d); !maps.Equal(after, before) {
		t.Errorf("before %v\nafter %v", before, after)
	}
	if got := show(t, s.Device(2), "write_behind"); got != "5\n" {
		t.Errorf("write_behind of zram2 is %q", got)
	}
	for slot := uint64(300); slot < 600; slot++ {
		wantPage(t, d, slot, stamped(t, slot))
	}
	// And it goes on: the hole is filled, a reset forgets.
	if id, err := s.HotAdd(); id != 1 || err != nil {
		t.Errorf("hot_add gives %d, %v", id, err)
	}
	if err := d.Reset(); err != nil {
		t.Fatal(err)
	}
	s.Abandon()
	s, found = generation(t, h, ledger)
	if found.Devices != 3 || s.Device(0).Size() != 0 || show(t, s.Device(0), "algorithm") != "lz4\n" {
		t.Errorf("after reset: %+v, size %d, %s", found, s.Device(0).Size(), show(t, s.Device(0), "algorithm"))
	}
	closeSet(t, s)
}

// What a generation with other streams counted is not lost.
func TestAdoptWithFewerStreams(t *testing.T) {
	h, ledger := newHolder(t), make([]byte, LedgerBytes)
	s, _ := generation(t, h, ledger)
	if _, err := s.HotAdd(); err != nil {
		t.Fatal(err)
	}
	d := s.Device(0)
	if err := d.SetSize(1 << 20); err != nil {
		t.Fatal(err)
	}
	for i := range 40 {
		if _, err := d.Do(&Request{Op: OpWrite, Stream: 1, Off: int64(i) * PageSize, Data: stamped(t, uint64(i))}); err != nil {
			t.Fatal(err)
		}
	}
	before := d.sums()
	s.Abandon()
	for _, streams := range []int{1, 4, 2} {
		cfg := testConfig(t)
		cfg.Source, cfg.Ledger, cfg.Streams = h, ledger, streams
		var err error
		if s, err = NewSet(cfg); err != nil {
			t.Fatal(err)
		}
		if _, err = s.Adopt(h.regions(t)); err != nil {
			t.Fatal(err)
		}
		if after := s.Device(0).sums(); after != before {
			t.Errorf("%d streams: %+v, it was %+v", streams, after, before)
		}
		if streams != 2 {
			s.Abandon()
		}
	}
	closeSet(t, s)
}

// Objects that no word names are given back, and told.
func TestAdoptReclaims(t *testing.T) {
	h, ledger := newHolder(t), make([]byte, LedgerBytes)
	s, _ := generation(t, h, ledger)
	if _, err := s.HotAdd(); err != nil {
		t.Fatal(err)
	}
	d := s.Device(0)
	if err := d.SetSize(1 << 20); err != nil {
		t.Fatal(err)
	}
	for i := range uint64(20) {
		write(t, d, stamped(t, i), int64(i)*PageSize)
	}
	k := d.disk.Load()
	for i := range uint64(3) { // built, and the worker dies before it is published
		if _, err := k.build(0, i, stamped(t, 100+i)); err != nil {
			t.Fatal(err)
		}
	}
	s.Abandon()
	s, found := generation(t, h, ledger)
	if found != (Recovered{Devices: 1, Pages: 20, Reclaimed: 3}) {
		t.Errorf("found %+v", found)
	}
	closeSet(t, s)
}

// Regions of no disk go back; a disk without its region is an error, and so is
// a set that has devices.
func TestAdoptRegions(t *testing.T) {
	h, ledger := newHolder(t), make([]byte, LedgerBytes)
	s, _ := generation(t, h, ledger)
	for range 2 {
		if _, err := s.HotAdd(); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Device(0).SetSize(1 << 20); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"zram1", "zram7", "other"} {
		r, err := h.Create(name, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		r.Close()
	}
	if _, err := s.Adopt(nil); !errors.Is(err, ErrBusy) {
		t.Errorf("a set with devices: %v", err)
	}
	s.Abandon()
	s, found := generation(t, h, ledger)
	if found.Devices != 2 || len(h.held) != 1 || h.held["zram0"] == nil {
		t.Errorf("found %+v, %d regions are held", found, len(h.held))
	}
	s.Abandon()
	cfg := testConfig(t)
	cfg.Source, cfg.Ledger = h, ledger
	s, err := NewSet(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Adopt(nil); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "zram0") {
		t.Errorf("without the region: %v", err)
	}
	if _, err := s.Adopt(h.regions(t)); err != nil {
		t.Errorf("the second attempt: %v", err)
	}
	closeSet(t, s)
}

// A ledger that is not what this binary wrote is refused with a sentence; any
// byte of a record that counts makes a difference.
func TestLedgerRefuses(t *testing.T) {
	h, ledger := newHolder(t), make([]byte, LedgerBytes)
	s, _ := generation(t, h, ledger)
	if _, err := s.HotAdd(); err != nil {
		t.Fatal(err)
	}
	if err := store(s.Device(0), "mem_limit", "8M"); err != nil {
		t.Fatal(err)
	}
	open := func(b []byte) error {
		cfg := testConfig(t)
		cfg.Source, cfg.Ledger = h, b
		s, err := NewSet(cfg)
		if err == nil {
			_, err = s.Adopt(nil)
		}
		return err
	}
	if err := open(ledger[:100]); !errors.Is(err, ErrInvalid) {
		t.Errorf("a short one: %v", err)
	}
	word := binary.LittleEndian.Uint64(ledger[ledgerWordsAt:])
	record := ledgerRecords
	if word&ledgerSecond != 0 {
		record += ledgerCopy
	}
	for _, c := range []struct {
		what    string
		at, len int
		want    error
	}{
		{"magic", 0, 8, ErrCorrupt}, {"version", 8, 1, ErrUnsupported}, {"capacity", 16, 1, ErrUnsupported},
		{"word", ledgerWordsAt, 8, ErrCorrupt}, {"record", record, ledgerCopy, ErrCorrupt},
	} {
		for i := range c.len {
			ledger[c.at+i] ^= 0x10
			err := open(ledger)
			if !errors.Is(err, c.want) || !strings.Contains(err.Error(), "ledger") {
				t.Errorf("%s, byte %d: %v, want %v", c.what, i, err, c.want)
			}
			ledger[c.at+i] ^= 0x10
		}
	}
	other := make([]byte, LedgerBytes)
	copy(other, ledger)
	copy(other[ledgerWordsAt+8:], ledger[ledgerWordsAt:ledgerWordsAt+8])
	copy(other[ledgerRecords+2*ledgerCopy:], ledger[ledgerRecords:ledgerRecords+2*ledgerCopy])
	if err := open(other); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a record under another number: %v", err)
	}
	if err := open(ledger); err != nil {
		t.Errorf("mended: %v", err)
	}
	closeSet(t, s)
}

// Each control operation that succeeds is one change, one that fails is none.
func TestChanges(t *testing.T) {
	h := newHolder(t)
	s, _ := generation(t, h, make([]byte, LedgerBytes))
	if _, err := s.HotAdd(); err != nil {
		t.Fatal(err)
	}
	d := s.Device(0)
	for _, c := range []struct {
		name, value string
		n           uint64
	}{
		{"comp_algorithm", "zstd", 1}, {"comp_algorithm", "zstd", 1}, {"comp_algorithm", "nothing", 0},
		{"mem_limit", "1G", 1}, {"stable", "wait", 1}, {"disksize", "1M", 1}, {"disksize", "1M", 0},
		{"stable", "snapshot", 1}, {"comp_algorithm", "lz4", 0}, {"compact", "1", 0}, {"mem_used_max", "0", 0},
		{"reset", "1", 1}, {"reset", "1", 1}, {"write_behind", "4", 1},
	} {
		before := s.Changes()
		err := store(d, c.name, c.value)
		if n := s.Changes() - before; n != c.n {
			t.Errorf("%s=%s, %v: %d changes, want %d", c.name, c.value, err, n, c.n)
		}
	}
	if err := d.Open(); err != nil {
		t.Fatal(err)
	}
	before := s.Changes()
	if err := s.HotRemove(0); !errors.Is(err, ErrBusy) || s.Changes() != before {
		t.Errorf("hot_remove of an open device: %v, %d changes", err, s.Changes()-before)
	}
	d.Close()
	if err := s.HotRemove(0); err != nil || s.Changes() != before+1 {
		t.Errorf("hot_remove: %v, %d changes", err, s.Changes()-before)
	}
	closeSet(t, s)
}

// A close that comes when the set has ended, as a late RELEASE, is welcome.
func TestLateClose(t *testing.T) {
	d := newDevice(t, 1<<20, testConfig(t))
	if err := d.Open(); err != nil {
		t.Fatal(err)
	}
	if err := d.set.Close(); err != nil {
		t.Fatal(err)
	}
	if err := d.Open(); !errors.Is(err, ErrNoDevice) {
		t.Errorf("open after the end: %v", err)
	}
	d.Close()
}

// hot_remove that waits for a request does not stand in the way of other
// devices.
func TestHotRemoveWaitsAlone(t *testing.T) {
	s := newDevice(t, 1<<20, testConfig(t)).set
	k := s.Device(0).disk.Load()
	if !k.gate.enter(0) { // a request that takes its time
		t.Fatal("the gate is shut")
	}
	removed := make(chan error)
	go func() { removed <- s.HotRemove(0) }()
	for !k.gate.closed.Load() {
	}
	if id, err := s.HotAdd(); id != 1 || err != nil {
		t.Errorf("hot_add meanwhile: %d, %v", id, err)
	}
	if s.Device(1) == nil || len(s.Devices()) != 2 {
		t.Error("the devices are not found meanwhile")
	}
	k.gate.leave(0)
	if err := <-removed; err != nil || s.Device(0) != nil {
		t.Errorf("hot_remove: %v", err)
	}
}
