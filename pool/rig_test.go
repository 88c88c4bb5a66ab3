package pool

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/zramfs/zramfs/internal/shm"
)

var errInjected = errors.New("injected")

// failer fails the k-th call that asks it, k from 1; 0: none.
type failer struct {
	mu       sync.Mutex
	calls, k int
}

func (f *failer) err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.calls++; f.calls == f.k {
		return errInjected
	}
	return nil
}

// memory is a Memory without a mapping. What is punched is destroyed, so that
// who goes on using it is found out.
type memory struct {
	buf       []byte
	committed []bool
	fail      *failer
}

func newMemory(size int64, fail *failer) *memory {
	return &memory{buf: make([]byte, size), committed: make([]bool, (size+PageSize-1)/PageSize), fail: fail}
}

func (m *memory) Bytes(off, n int64) []byte { return m.buf[off : off+n : off+n] }

func (m *memory) Populate(off, n int64) error {
	if err := m.fail.err(); err != nil {
		m.committed[off/PageSize] = true // an error may come after some of the pages
		return err
	}
	for i := off / PageSize; i < (off+n)/PageSize; i++ {
		m.committed[i] = true
	}
	return nil
}

func (m *memory) Punch(off, n int64) error {
	if err := m.fail.err(); err != nil {
		return err
	}
	for i := off / PageSize; i < (off+n)/PageSize; i++ {
		m.committed[i] = false
	}
	b := m.Bytes(off, n)
	for i := range b {
		b[i] = 0xdb
	}
	return nil
}

func (m *memory) Data(yield func(off, n int64) bool) error {
	if err := m.fail.err(); err != nil {
		return err
	}
	for i := int64(0); i < int64(len(m.committed)); i++ {
		if m.committed[i] && !yield(i*PageSize, PageSize) {
			return nil
		}
	}
	return nil
}

func (m *memory) resident() (n int64) {
	for _, c := range m.committed {
		if c {
			n++
		}
	}
	return n
}

// account is an exact Account that can refuse the k-th Take.
type account struct {
	pages, limit atomic.Int64
	fail         *failer
}

func (a *account) Take(n int64) bool {
	if a.fail != nil && a.fail.err() != nil {
		return false
	}
	if a.pages.Add(n) > a.limit.Load() {
		a.pages.Add(-n)
		return false
	}
	return true
}

func (a *account) Give(n int64) {
	if a.pages.Add(-n) < 0 {
		panic("gave back more than was taken")
	}
}

func (a *account) Room() int64 { return max(a.limit.Load()-a.pages.Load(), 0) }

// slot is an owner's word and what is stored under it.
type slot struct {
	mu      sync.Mutex
	place   Place
	size    int // 0: empty
	version uint32
}

// rig is a pool with owners that know what they stored.
type rig struct {
	t       testing.TB
	arena   *memory
	side    *memory
	account *account
	cfg     Config
	pool    *Pool
	slots   []slot
	refuse  func(owner uint32) bool // a Mover that says no
}

type option func(*rig)

func newRig(t testing.TB, chunks, slabs, owners int, options ...option) *rig {
	t.Helper()
	r := &rig{t: t, account: &account{}, slots: make([]slot, owners)}
	r.account.limit.Store(1 << 40)
	fail := &failer{}
	size := int64(chunks) * ChunkSize
	r.arena, r.side = newMemory(size, fail), newMemory(SideBytes(size), fail)
	r.cfg = Config{Arena: r.arena, Side: r.side, ArenaBytes: size, Geometry: geometry(t, 8),
		Slabs: slabs, Account: r.account, ReserveLow: 256 << 10, ReserveHigh: 1 << 20}
	for _, o := range options {
		o(r)
	}
	r.pool = r.fresh()
	return r
}

// fresh is a new pool over the rig's memory.
func (r *rig) fresh() *Pool {
	p, err := New(r.cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		if err := p.Close(); err != nil {
			r.t.Error(err)
		}
	})
	return p
}

func (r *rig) maintain() {
	r.t.Helper()
	for range 1 << 16 {
		more, err := r.pool.Maintain()
		if err != nil {
			r.t.Fatal(err)
		}
		if !more {
			return
		}
	}
	r.t.Fatal("maintenance never ends")
}

func content(b []byte, owner, version uint32) []byte {
	rng := rand.NewPCG(uint64(owner), uint64(version))
	for i := 0; i < len(b); i += 8 {
		var w [8]byte
		binary.LittleEndian.PutUint64(w[:], rng.Uint64())
		copy(b[i:], w[:])
	}
	return b
}

func seed(owner, version uint32) uint32 { return owner*31 + version }

// put stores a new version under an owner's word and frees the old one.
func (r *rig) put(slab int, owner uint32, size int) error {
	var buf [PageSize]byte
	s := &r.slots[owner]
	s.mu.Lock()
	version := s.version + 1
	s.mu.Unlock()
	data := content(buf[:size], owner, version)
	pl, err := r.pool.Put(slab, owner, seed(owner, version), data)
	if err != nil {
		return err
	}
	s.mu.Lock()
	old, oldSize := s.place, s.size
	s.place, s.size, s.version = pl, size, version
	s.mu.Unlock()
	if oldSize != 0 {
		return r.pool.Free(old, oldSize)
	}
	return nil
}

// store is put with maintenance when there is no room.
func (r *rig) store(slab int, owner uint32, size int) {
	r.t.Helper()
	for range 100 {
		err := r.put(slab, owner, size)
		if err == nil {
			return
		}
		if !errors.Is(err, ErrNoRoom) {
			r.t.Fatalf("put %d bytes: %v", size, err)
		}
		if _, err := r.pool.Maintain(); err != nil {
			r.t.Fatal(err)
		}
	}
	r.t.Fatal("maintenance finds no room")
}

func (r *rig) free(owner uint32) { r.drop(owner, r.pool.Free) }

// drop empties an owner's word and frees the object by the way given.
func (r *rig) drop(owner uint32, free func(Place, int) error) {
	s := &r.slots[owner]
	s.mu.Lock()
	old, size := s.place, s.size
	s.size = 0
	s.mu.Unlock()
	if size != 0 {
		if err := free(old, size); err != nil {
			r.t.Error(err)
		}
	}
}

// get verifies what is stored under an owner's word.
func (r *rig) get(owner uint32) {
	s := &r.slots[owner]
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.size == 0 {
		return
	}
	data, err := r.pool.Get(s.place, owner, seed(owner, s.version), s.size)
	if err != nil {
		r.t.Errorf("owner %d: %v", owner, err)
		return
	}
	var buf [PageSize]byte
	if !bytes.Equal(data, content(buf[:s.size], owner, s.version)) {
		r.t.Errorf("owner %d has other bytes", owner)
	}
}

// Move makes a rig a Mover.
func (r *rig) Move(owner uint32, from, to Place) bool {
	if int(owner) >= len(r.slots) || r.refuse != nil && r.refuse(owner) {
		return false
	}
	s := &r.slots[owner]
	if !s.mu.TryLock() {
		return false
	}
	defer s.mu.Unlock()
	if s.size == 0 || s.place != from {
		return false
	}
	s.place = to
	return true
}

func (r *rig) walk(yield func(Object) bool) {
	for i := range r.slots {
		if s := &r.slots[i]; s.size != 0 && !yield(Object{uint32(i), s.place, s.size}) {
			return
		}
	}
}

// check is the end of every test: all bytes are there, and Check.
func (r *rig) check() {
	r.t.Helper()
	for i := range r.slots {
		r.get(uint32(i))
	}
	if err := r.pool.Check(r.walk); err != nil {
		r.t.Fatal(err)
	}
	if got, want := r.account.pages.Load(), r.pool.Stats().Pages; got != want {
		r.t.Fatalf("account has %d pages, the pool %d", got, want)
	}
}

// sizes is a length as real pages compress to with LZ4: mostly a third of a
// page, some nearly nothing, some hardly at all, a few not.
func sizes(rng *rand.Rand) int {
	switch n := rng.IntN(100); {
	case n < 10:
		return 20 + rng.IntN(200)
	case n < 85:
		return max(40, min(3600, 1300+int(rng.NormFloat64()*450)))
	case n < 97:
		return 2000 + rng.IntN(1600)
	default:
		return PageSize
	}
}

// window is a real region of a shared mapping.
func window(t testing.TB, size int64) *shm.Window {
	t.Helper()
	r, err := shm.OpenSource().Create("pool-test", size)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	w, err := shm.NewWindow(r, 0, size)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// onShm puts the rig on real shared memory.
func onShm(r *rig) {
	r.cfg.Arena, r.cfg.Side = window(r.t, r.cfg.ArenaBytes), window(r.t, SideBytes(r.cfg.ArenaBytes))
}

// onScratch keeps descriptors in shared memory, too.
func onScratch(r *rig) {
	r.cfg.Scratch = window(r.t, ScratchBytes(r.cfg.ArenaBytes))
}

func reserve(low, high int64) option {
	return func(r *rig) { r.cfg.ReserveLow, r.cfg.ReserveHigh = low, high }
}
