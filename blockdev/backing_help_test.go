package blockdev

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// memBacking is a backing device in memory that fails, stalls and forgets when it
// is told.
type memBacking struct {
	mu    sync.Mutex
	mem   []byte            // guarded by mu
	gone  map[int64]bool    // guarded by mu; pages that were discarded and not written since
	stall chan struct{}     // guarded by mu; not nil: calls wait for its end
	read  func(int64) error // guarded by mu; asked before a read
	write func(int64) error // guarded by mu

	stalled  atomic.Int64 // calls that wait
	discards atomic.Int64 // pages
	opened   bool
}

func newMemBacking(pages int) *memBacking {
	return &memBacking{mem: make([]byte, pages*PageSize), gone: make(map[int64]bool)}
}

func (m *memBacking) set(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f()
}

func (m *memBacking) wait() {
	m.mu.Lock()
	stall := m.stall
	m.mu.Unlock()
	if stall != nil {
		m.stalled.Add(1)
		<-stall
		m.stalled.Add(-1)
	}
}

func (m *memBacking) ReadAt(p []byte, off int64) (int, error) {
	m.wait()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.read != nil {
		if err := m.read(off); err != nil {
			return 0, err
		}
	}
	for at := off; at < off+int64(len(p)); at += PageSize {
		if m.gone[at] {
			return 0, fmt.Errorf("read of %d, which was discarded", at)
		}
	}
	if off%PageSize != 0 || len(p)%PageSize != 0 {
		return 0, errors.New("not whole blocks")
	}
	return copy(p, m.mem[off:]), nil
}

func (m *memBacking) WriteAt(p []byte, off int64) (int, error) {
	m.wait()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.write != nil {
		if err := m.write(off); err != nil {
			return 0, err
		}
	}
	if off%PageSize != 0 || len(p)%PageSize != 0 {
		return 0, errors.New("not whole blocks")
	}
	for at := off; at < off+int64(len(p)); at += PageSize {
		delete(m.gone, at)
	}
	return copy(m.mem[off:], p), nil
}

func (m *memBacking) Discard(off, n int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.discards.Add(n / PageSize)
	for at := off; at < off+n; at += PageSize {
		m.gone[at] = true
	}
	return nil
}

func (m *memBacking) Size() int64 { return int64(len(m.mem)) }

// contains looks for bytes on the device.
func (m *memBacking) contains(b []byte) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return bytes.Contains(m.mem, b)
}

// backings is a source of memory devices: the path is a name of one.
type backings map[string]*memBacking

func (s backings) OpenBacking(_, path string, create int64) (Backing, error) {
	if create > 0 {
		s[path] = newMemBacking(int(create / PageSize))
	}
	m := s[path]
	if m == nil {
		return nil, ErrNotBlock
	}
	if m.opened {
		return nil, ErrBusy
	}
	m.opened = true
	return m, nil
}

func (s backings) AdoptBacking(string) (Backing, error) {
	for _, m := range s {
		if m.opened {
			return m, nil
		}
	}
	return nil, errors.New("none was opened")
}

func (s backings) DropBacking(_ string, b Backing) { b.(*memBacking).opened = false }

// backedDevice makes a device of so many pages over a backing device of so many.
func backedDevice(tb testing.TB, pages, away int, attributes ...string) (*Device, *memBacking) {
	tb.Helper()
	m := newMemBacking(away)
	cfg := testConfig(tb)
	cfg.Backing = backings{"dev": m}
	d := newDevice(tb, 0, cfg)
	set(tb, d, append([]string{"backing_dev=dev"}, attributes...)...)
	if err := d.SetSize(int64(pages) * PageSize); err != nil {
		tb.Fatal(err)
	}
	return d, m
}

// set stores attributes, name=value each.
func set(tb testing.TB, d *Device, attributes ...string) {
	tb.Helper()
	for _, a := range attributes {
		name, value, _ := bytes.Cut([]byte(a), []byte("="))
		if err := store(d, string(name), string(value)); err != nil {
			tb.Fatalf("%s: %v", a, err)
		}
	}
}

// fillPages writes a page of each kind in turn, and gives them.
func fillPages(tb testing.TB, d *Device, n int) [][]byte {
	tb.Helper()
	pages := make([][]byte, n)
	for i := range pages {
		switch i % 4 {
		case 0:
			pages[i] = bytes.Repeat([]byte{byte(i)}, PageSize)
		case 1:
			pages[i] = incompressible()
		default:
			pages[i] = stamped(tb, uint64(i))
		}
		write(tb, d, pages[i], int64(i)*PageSize)
	}
	return pages
}

func wantPages(tb testing.TB, d *Device, pages [][]byte) {
	tb.Helper()
	for i, p := range pages {
		wantPage(tb, d, uint64(i), p)
	}
}

// states counts the slots in a state.
func states(d *Device, s state) (n int) {
	for _, w := range d.disk.Load().table.each {
		if w.state() == s {
			n++
		}
	}
	return n
}

func eventually(tb testing.TB, what string, f func() bool) {
	tb.Helper()
	for end := time.Now().Add(2 * time.Minute); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			tb.Fatalf("%s does not happen", what)
		}
	}
}

// readAnywhere reads a slot's page on a disk without goroutines, wherever it is.
func (d *disk) readAnywhere(slot uint64, page []byte) error {
	err := d.readPage(0, slot, 0, page)
	if err != errAway {
		return err
	}
	var f fetcher
	f.init(0, d.back.key)
	w, err := d.fetchPage(&f, slot)
	if w != 0 {
		d.back.blocks.letGo(w)
	}
	copy(page, f.page)
	return err
}

// withBacking makes options of a disk that has a backing device.
func withBacking(o options, m *memBacking) options {
	o.backing, o.backSettings = m, backSettings{packed: true, batch: 4}
	return o
}

// writeBack writes every sixth slot back, on a disk without goroutines.
func (d *disk) writeBack(tb testing.TB) {
	tb.Helper()
	for slot := uint64(1); slot < d.table.slots(); slot += 6 {
		if _, err := d.writebackPass(context.Background(), writebackOptions{selectors: []selector{{lo: slot, hi: slot + 1}}}); err != nil {
			tb.Fatal(err)
		}
	}
}
