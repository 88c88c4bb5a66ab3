package blockdev

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/zramfs/zramfs/pool"
)

func TestLimitPolicyText(t *testing.T) {
	for text, want := range map[string]string{
		"none":                      "none",
		"wait=0s":                   "none",
		"wait=1h":                   "wait=1h0m0s",
		"compact":                   "compact",
		"writeback,compact,wait=5s": "writeback,compact,wait=5s",
		"compact,recompress,writeback,wait=100ms": "compact,recompress,writeback,wait=100ms",
	} {
		p, err := parseLimitPolicy(text)
		if err != nil || p.String() != want {
			t.Errorf("%q is %v, %v; want %s", text, p, err, want)
		}
		if again, err := parseLimitPolicy(p.String()); err != nil || again != p {
			t.Errorf("%v reads as %v, %v", p, again, err)
		}
	}
	for _, text := range []string{"", "compact,", "compact,compact", "wait=1s,compact", "wait=", "wait=5", "wait=-1s", "wait=2h", "none,compact", "swap",
		"compact,recompress,writeback,compact"} {
		if p, err := parseLimitPolicy(text); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q is %v, %v; want ErrInvalid", text, p, err)
		}
	}
	d := newDevice(t, 0, testConfig(t))
	if err := store(d, "limit_policy", "recompress,wait=7ms\n"); err != nil {
		t.Fatal(err)
	}
	if got := show(t, d, "limit_policy"); got != "recompress,wait=7ms\n" {
		t.Errorf("limit_policy shows %q", got)
	}
	if err := d.Reset(); err != nil {
		t.Fatal(err)
	}
	if got := show(t, d, "limit_policy"); got != "compact,recompress,writeback\n" {
		t.Errorf("after reset limit_policy shows %q", got)
	}
}

// limitRow reads a line of limit_stat.
func limitRow(tb testing.TB, d *Device, name string) (tried, freed, micros int64) {
	tb.Helper()
	for line := range strings.Lines(show(tb, d, "limit_stat")) {
		if f := strings.Fields(line); len(f) == 4 && f[0] == name {
			if _, err := fmt.Sscan(strings.Join(f[1:], " "), &tried, &freed, &micros); err != nil {
				tb.Fatal(err)
			}
			return tried, freed, micros
		}
	}
	tb.Fatalf("limit_stat has no row %s", name)
	return 0, 0, 0
}

// small is a page that becomes an object of some hundred bytes, another for
// each n.
func small(n uint64) []byte {
	page := make([]byte, PageSize)
	for i := 0; i < int(300+100*(n%3)); i += 8 {
		binary.LittleEndian.PutUint64(page[i:], (n*7919+uint64(i))*0x9E3779B97F4A7C15)
	}
	return page
}

// fragmented fills a disk with small objects and discards most of them here and
// there, so that compaction has much to give. It says which pages are left.
func fragmented(tb testing.TB, d *Device, slots uint64) map[uint64][]byte {
	left := map[uint64][]byte{}
	for slot := range slots {
		page := small(slot)
		write(tb, d, page, int64(slot)*PageSize)
		if slot%5 == 0 {
			left[slot] = page
		}
	}
	for slot := range slots {
		if slot%5 != 0 {
			if err := d.Discard(int64(slot)*PageSize, PageSize); err != nil {
				tb.Fatal(err)
			}
		}
	}
	return left
}

func used(d *Device) int64 { return d.disk.Load().account.used.Load() }

// The ladder's rest between two pieces ends when somebody begins to wait for it, and
// nothing is kept when nobody does any more.
func TestLadderWakes(t *testing.T) { synctest.Test(t, ladderWakes) }

func ladderWakes(t *testing.T) {
	src := newSource(t)
	d, err := createDisk(src, "zram0", quietOptions(t, 8*PageSize, 0))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { src.Drop("zram0", d.region) }()
	defer forget(t, d)
	woke := make(chan struct{})
	go func() {
		d.napLadder(time.Hour)
		close(woke)
	}()
	synctest.Wait() // until it naps
	began := time.Now()
	var requests [4]Request
	d.limited(&requests[0], true)
	d.ladder.poke()
	if <-woke; !time.Now().Equal(began) {
		t.Errorf("it slept for %v", time.Since(began))
	}
	var all sync.WaitGroup
	for i := range requests {
		all.Go(func() {
			for range 1000 {
				d.limited(&requests[i], true)
				d.limited(&requests[i], false)
			}
		})
	}
	all.Wait()
	if n := d.account.held.Load(); n != 0 {
		t.Errorf("%d pages are kept for nobody", n)
	}
	if err := d.check(); err != nil {
		t.Error(err)
	}
}

// A limit that is lowered below what is stored is climbed down to by itself, a
// piece at a time; what is stored stays, and can be read all the while.
func TestLimitLowered(t *testing.T) {
	const slots = 8192
	d := newDevice(t, slots*PageSize, testConfig(t))
	left := fragmented(t, d, slots)
	before := used(d)
	limit := before / 3
	if err := store(d, "mem_limit", fmt.Sprint(limit*PageSize)); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(2 * time.Minute); used(d) > limit && time.Now().Before(end); {
		for slot, page := range left {
			wantPage(t, d, slot, page)
			break
		}
	}
	if now := used(d); now > limit {
		t.Fatalf("%d pages are used under a limit of %d, %d before it", now, limit, before)
	}
	for slot, page := range left {
		wantPage(t, d, slot, page)
	}
	var tried, freed int64
	for end := time.Now().Add(2 * time.Minute); freed < before-limit && time.Now().Before(end); time.Sleep(time.Millisecond) {
		tried, freed, _ = limitRow(t, d, "compact") // a piece is counted when it ends
	}
	if freed < before-limit || tried < freed/(2*ladderPiece) {
		t.Errorf("compact freed %d pages in %d pieces, want %d, at most %d each", freed, tried, before-limit, ladderPiece)
	}
	if tried, _, _ := limitRow(t, d, "recompress"); tried != 0 {
		t.Errorf("recompress was tried %d times without an algorithm", tried)
	}
}

// Writes at the limit get the room that the rungs make: none is refused while
// there is any to be had, and what is refused keeps its old content.
func TestLadderMakesRoom(t *testing.T) {
	const slots = 8192
	cfg := testConfig(t)
	cfg.LimitWait = time.Minute
	d := newDevice(t, slots*PageSize, cfg)
	left := fragmented(t, d, slots)
	if err := store(d, "mem_limit", fmt.Sprint(used(d)*PageSize)); err != nil {
		t.Fatal(err)
	}
	pages := used(d) / 2
	for n := range uint64(pages) { // each a page of its own
		page := incompressible()
		slot := n/4*5 + n%4 + 1
		write(t, d, page, int64(slot)*PageSize)
		left[slot] = page
	}
	if moved := d.disk.Load().pool.Stats().Moved; moved == 0 {
		t.Error("the ladder has done nothing")
	}
	if waits, _, micros := limitRow(t, d, "wait"); waits == 0 || micros == 0 {
		t.Errorf("%d writes waited, %d us", waits, micros)
	}
	if n, _, _ := limitRow(t, d, "refuse"); n != 0 {
		t.Errorf("%d writes were refused", n)
	}

	// Nothing is left to give.
	if err := store(d, "limit_policy", "compact,wait=1ms"); err != nil {
		t.Fatal(err)
	}
	refused := false
	for n := uint64(pages); n < slots/5*4 && !refused; n++ {
		slot := n/4*5 + n%4 + 1
		_, err := d.WriteAt(incompressible(), int64(slot)*PageSize)
		if refused = errors.Is(err, ErrNoSpace); !refused && err != nil {
			t.Fatal(err)
		} else if !refused {
			delete(left, slot)
		} else if left[slot] == nil {
			left[slot] = make([]byte, PageSize)
		}
	}
	if n, _, _ := limitRow(t, d, "refuse"); !refused || n == 0 {
		t.Errorf("refused %v, counted %d", refused, n)
	}
	for slot, page := range left {
		wantPage(t, d, slot, page)
	}
}

// With no wait a write is refused at once, and the rungs are climbed for the next.
func TestRefusedAndClimbed(t *testing.T) {
	const slots = 4096
	d := newDevice(t, slots*PageSize, testConfig(t))
	fragmented(t, d, slots)
	if err := store(d, "limit_policy", "none"); err != nil {
		t.Fatal(err)
	}
	if err := store(d, "mem_limit", fmt.Sprint(used(d)*PageSize)); err != nil {
		t.Fatal(err)
	}
	if _, err := d.WriteAt(incompressible(), PageSize); !errors.Is(err, ErrNoSpace) {
		t.Fatalf("a write at the limit: %v, want ErrNoSpace", err)
	}
	if tried, _, _ := limitRow(t, d, "compact"); tried != 0 {
		t.Error("policy none climbs")
	}
	if err := store(d, "limit_policy", "compact"); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(2 * time.Minute); ; {
		_, err := d.WriteAt(incompressible(), PageSize)
		if err == nil {
			break
		}
		if !errors.Is(err, ErrNoSpace) || time.Now().After(end) {
			t.Fatalf("writes go on being refused: %v", err)
		}
	}
	if waits, _, _ := limitRow(t, d, "wait"); waits != 0 {
		t.Errorf("%d writes waited", waits)
	}
}

// Recompression is a rung where it is configured: a disk whose zspages are full
// takes more, and every page stays what it was.
func TestRecompressIsARung(t *testing.T) {
	const slots = 1024
	cfg := testConfig(t)
	cfg.LimitWait = time.Minute
	set, err := NewSet(cfg)
	if err != nil {
		t.Fatal(err)
	}
	id, err := set.HotAdd()
	if err != nil {
		t.Fatal(err)
	}
	d := set.Device(id)
	defer func() {
		if err := errors.Join(d.Check(), set.Close()); err != nil {
			t.Error(err)
		}
	}()
	for name, value := range map[string]string{"recomp_algorithm": "algo=zstd priority=1", "limit_policy": "recompress,compact,wait=1m"} {
		if err := store(d, name, value); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.SetSize(slots * PageSize); err != nil {
		t.Fatal(err)
	}
	for slot := range uint64(slots / 2) {
		write(t, d, stamped(t, slot), int64(slot)*PageSize)
	}
	if err := store(d, "compact", "1"); err != nil {
		t.Fatal(err)
	}
	// All of it is cold.
	k := d.disk.Load()
	for slot := range uint64(slots) {
		atomic.StoreUint32(&k.table.atimes[slot], 0)
	}
	if err := store(d, "mem_limit", fmt.Sprint(used(d)*PageSize)); err != nil {
		t.Fatal(err)
	}
	more := uint64(slots/2 + 64)
	for slot := uint64(slots / 2); slot < more; slot++ {
		write(t, d, stamped(t, slot), int64(slot)*PageSize)
	}
	for end := time.Now().Add(2 * time.Minute); ; time.Sleep(time.Millisecond) { // a piece is counted when it ends
		if tried, freed, _ := limitRow(t, d, "recompress"); tried > 0 && freed > 0 {
			break
		} else if time.Now().After(end) {
			t.Fatalf("recompress was tried %d times and freed %d pages", tried, freed)
		}
	}
	for slot := range more {
		wantPage(t, d, slot, stamped(t, slot))
	}
}

// Who waits for room is served before who comes later, and in turn.
func TestNobodyOvertakes(t *testing.T) {
	const room, waiters = 64, 5
	src := newSource(t)
	o := quietOptions(t, 4096*PageSize, 0)
	o.limit, o.ladder = room*PageSize, limitPolicy{wait: time.Hour}
	d, err := createDisk(src, "zram0", o)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { src.Drop("zram0", d.region) }()
	if err := d.fillReserve(); err != nil {
		t.Fatal(err)
	}
	var answered []int64
	submit := func(slot int64, last bool) (bool, error) {
		_, parked, err := d.submit(&Request{Op: OpWrite, Data: incompressible(), Off: slot * PageSize, Last: last,
			Done: func(r *Request, _ int, err error) {
				if err != nil {
					t.Errorf("slot %d: %v", r.Off/PageSize, err)
				}
				answered = append(answered, r.Off/PageSize)
			}})
		return parked, err
	}
	for slot := range int64(room) {
		if parked, err := submit(slot, false); parked || err != nil {
			t.Fatalf("slot %d: parked %v, %v", slot, parked, err)
		}
	}
	for i := range int64(waiters) {
		if parked, err := submit(100+i, false); !parked {
			t.Fatalf("slot %d found room: %v", 100+i, err)
		}
	}
	for i := range int64(waiters) {
		d.emptySlot(0, uint64(i))
		if _, err := submit(200+i, true); !errors.Is(err, ErrNoSpace) {
			t.Errorf("who came later got a page that others wait for: %v", err)
		}
		d.keepUp()
		if want := int64(100) + i; len(answered) != int(i+1) || answered[i] != want {
			t.Fatalf("%d pages are free: answered %v, want %d last", i+1, answered, want)
		}
	}
	d.emptySlot(0, waiters)
	if _, err := submit(300, true); err != nil {
		t.Errorf("nobody waits any more, and a write is refused: %v", err)
	}
	if n, held := d.account.waiters.Load(), d.account.held.Load(); n != 0 || held != 0 {
		t.Errorf("%d writes wait, %d pages are held", n, held)
	}
	if err := d.check(); err != nil {
		t.Error(err)
	}
}

// Many writers at the limit share what becomes free: each gets on, whoever else
// asks, and however the limit moves.
func TestWritersShare(t *testing.T) {
	const writers, pages = 12, 40
	cfg := testConfig(t)
	cfg.LimitWait, cfg.MemLimit = time.Minute, 32*PageSize
	d := newDevice(t, writers*PageSize*2, cfg)
	var all sync.WaitGroup
	for w := range writers {
		all.Go(func() {
			r := rand.New(rand.NewPCG(uint64(w), 29))
			for range pages {
				page := incompressible()
				slot := int64(2*w) + r.Int64N(2)
				write(t, d, page, slot*PageSize)
				wantPage(t, d, uint64(slot), page)
				if err := d.Discard(slot*PageSize, PageSize); err != nil {
					t.Error(err)
				}
			}
		})
	}
	stop := make(chan struct{})
	moved := make(chan error, 1)
	go func() {
		var err error
		for i := 0; ; i++ {
			select {
			case <-stop:
				moved <- err
				return
			default:
			}
			err = errors.Join(err, store(d, "mem_limit", []string{"12K", "128K", "0", "40K"}[i%4]))
			time.Sleep(time.Millisecond)
		}
	}()
	all.Wait()
	close(stop)
	if err := <-moved; err != nil {
		t.Error(err)
	}
	if n, _, _ := limitRow(t, d, "refuse"); n != 0 {
		t.Errorf("%d writes were refused", n)
	}
}

// Fail the k-th commit, compression or allocation while the ladder is climbed
// and the disk resized: the old content stays, or the new one is whole.
func TestKthFailureAtTheLimit(t *testing.T) {
	const slots = 96
	for _, kind := range []string{"commit", "compression", "allocation"} {
		failures := 0
		for k := int64(1); ; k += 1 + k/4 {
			n := &nth{k: k}
			cfg := testConfig(t)
			cfg.ReserveLow, cfg.ReserveHigh, cfg.MemLimit, cfg.LimitWait = 32<<10, 64<<10, 100<<10, time.Millisecond
			if kind != "commit" {
				cfg.LimitWait = -1
			}
			f := &faults{}
			switch kind {
			case "commit":
				f.wrap = func(m pool.Memory) pool.Memory { return frail{m, n} }
			case "compression":
				f.compress = n.fail
			case "allocation":
				f.put = n.fail
			}
			cfg.faults = f
			set, err := NewSet(cfg)
			if err != nil {
				t.Fatal(err)
			}
			id, err := set.HotAdd()
			if err != nil {
				t.Fatal(err)
			}
			d := set.Device(id)
			if err := d.SetSize(slots / 2 * PageSize); err == nil {
				m := &model{disk: make([]byte, slots*PageSize)}
				for i := range int64(slots) {
					if i == slots/4 {
						if err := d.Resize(slots * PageSize); err != nil {
							t.Fatal(err)
						}
					}
					page, slot := small(uint64(i)), i*7%(slots/2)
					if i > slots/4 {
						slot = i * 7 % slots
					}
					if i%3 == 0 {
						page = incompressible()
					}
					if err := faultyWrite(d, m, page, slot*PageSize); err != nil {
						t.Fatalf("%s %d: %v", kind, k, err)
					}
				}
				if got := read(t, d, slots*PageSize, 0); !bytes.Equal(got, m.disk) {
					t.Fatalf("%s %d: %s", kind, k, firstDifference(got, m.disk))
				}
			} else if !errors.Is(err, errInjected) {
				t.Fatal(err)
			}
			if err := errors.Join(d.Check(), set.Close()); err != nil {
				t.Fatalf("%s %d: %v", kind, k, err)
			}
			if n.calls.Load() < k {
				break
			}
			failures++
		}
		if failures == 0 {
			t.Errorf("no %s ever failed", kind)
		}
	}
}

// What the ladder counted outlives the worker.
func TestLimitStatIsKept(t *testing.T) {
	cfg := testConfig(t)
	cfg.MemLimit = PageSize
	g := newGenerations(t, 64*PageSize, cfg)
	write(t, g.device(), incompressible(), 0)
	if _, err := g.device().WriteAt(incompressible(), PageSize); !errors.Is(err, ErrNoSpace) {
		t.Fatal(err)
	}
	if err := store(g.device(), "limit_policy", "wait=3ms"); err != nil {
		t.Fatal(err)
	}
	before := strings.Split(show(t, g.device(), "limit_stat"), "\n")
	g.kill(rand.New(rand.NewPCG(1, 1)))
	after := strings.Split(show(t, g.device(), "limit_stat"), "\n")
	if !slices.Equal(before[4:], after[4:]) || !strings.Contains(before[5], "refuse     1 ") {
		t.Errorf("before %q, after %q", before, after)
	}
	if got := show(t, g.device(), "limit_policy"); got != "wait=3ms\n" {
		t.Errorf("the next worker's policy is %q", got)
	}
	g.end()
}
