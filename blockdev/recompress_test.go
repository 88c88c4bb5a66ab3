package blockdev

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/zramfs/zramfs/internal/invariants"
	"github.com/zramfs/zramfs/internal/testpages"
)

// recompressed makes a device with lz4 first and zstd second.
func recompressed(tb testing.TB, size int64) *Device {
	tb.Helper()
	cfg := testConfig(tb)
	cfg.Recompress[0] = params(tb, "zstd")
	return newDevice(tb, size, cfg)
}

func mustStore(tb testing.TB, d *Device, name, value string) {
	tb.Helper()
	if err := store(d, name, value); err != nil {
		tb.Fatalf("%s = %q: %v", name, value, err)
	}
}

// flags counts the pages by their flags in block_state.
func flags(tb testing.TB, d *Device) map[string]int {
	tb.Helper()
	m := make(map[string]int)
	for line := range strings.Lines(show(tb, d, "block_state")) {
		for _, c := range strings.Fields(line)[2] {
			if c != '.' {
				m[string(c)]++
			}
		}
	}
	return m
}

// Pages of the corpus that are recompressed read as before, take less memory, and
// are told apart by block_state; what no algorithm makes smaller is given up until
// it is written again.
func TestRecompress(t *testing.T) {
	const slots = 1200
	d := recompressed(t, slots*PageSize)
	pages := make([][]byte, slots)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range pages {
		pages[i] = randomPage(t, r)
		write(t, d, pages[i], int64(i)*PageSize)
	}
	hugePages := column(t, d, "mm_stat", mmHuge)
	before := column(t, d, "mm_stat", mmCompr)
	mustStore(t, d, "recompress", "type=idle") // there is none
	if n := flags(t, d)["r"]; n != 0 {
		t.Errorf("%d pages recompressed, none was idle", n)
	}
	mustStore(t, d, "idle", "all")
	if m := flags(t, d); m["i"] == 0 || m["i"]+m["s"] != slots {
		t.Errorf("%v after idle all, of %d pages", m, slots)
	}
	read(t, d, PageSize, 0)
	mustStore(t, d, "recompress", "type=idle max_pages=10")
	if n := flags(t, d)["r"]; n > 10 {
		t.Errorf("%d pages recompressed of 10 tried", n)
	}
	mustStore(t, d, "recompress", "type=idle")
	m := flags(t, d)
	if m["r"] < slots/3 || m["i"] != 0 || m["n"] < int(hugePages)/2 {
		t.Errorf("%v after recompression of %d pages, %d of them huge", m, slots, hugePages)
	}
	after := column(t, d, "mm_stat", mmCompr)
	if after >= before*9/10 {
		t.Errorf("%d bytes before, %d after", before, after)
	}
	if s := show(t, d, "recompress_stat"); !strings.Contains(s, fmt.Sprintf("saved %d\n", before-after)) {
		t.Errorf("%d bytes were saved; %s", before-after, s)
	}
	if err := d.Check(); err != nil {
		t.Fatal(err)
	}
	for i := range pages {
		wantPage(t, d, uint64(i), pages[i])
	}
	tried := d.disk.Load().kept.pp.tried.Load()
	mustStore(t, d, "recompress", "") // nothing is left that could become smaller
	if now := d.disk.Load().kept.pp.tried.Load(); now != tried+1 && now != tried {
		t.Errorf("%d pages were tried again", now-tried)
	}
	for i := range pages { // a write makes all of it new
		write(t, d, pages[i], int64(i)*PageSize)
	}
	if m := flags(t, d); m["r"] != 0 || m["n"] != 0 || column(t, d, "mm_stat", mmCompr) != before {
		t.Errorf("%v after all was written again", m)
	}
}

// The threshold leaves small objects alone, and drops results that are not below it.
func TestRecompressThreshold(t *testing.T) {
	const slots, threshold = 400, 2000
	d := recompressed(t, slots*PageSize)
	for i := range uint64(slots) {
		write(t, d, stamped(t, i*7), int64(i)*PageSize)
	}
	k := d.disk.Load()
	was := map[uint64]int{}
	for slot, w := range k.table.each {
		was[slot] = heldBytes(w)
	}
	mustStore(t, d, "recompress", fmt.Sprintf("threshold=%d", threshold))
	changed := 0
	for slot, w := range k.table.each {
		if heldBytes(w) == was[slot] {
			continue
		}
		changed++
		if was[slot] < threshold || heldBytes(w) >= threshold {
			t.Errorf("slot %d: %d bytes became %d, the threshold is %d", slot, was[slot], heldBytes(w), threshold)
		}
	}
	if changed == 0 {
		t.Error("no page was recompressed")
	}
}

// Each priority has its own params; the one that is asked for is used, and what
// has it already or a better one is left alone.
func TestRecompressPriorities(t *testing.T) {
	d := newDevice(t, 0, testConfig(t))
	if got := show(t, d, "recomp_algorithm"); got != "" {
		t.Errorf("recomp_algorithm %q before any is set", got)
	}
	mustStore(t, d, "recomp_algorithm", "algo=lz4hc priority=1\n")
	mustStore(t, d, "recomp_algorithm", "algo=zstd priority=3")
	mustStore(t, d, "algorithm_params", "priority=3 level=9")
	if got, want := show(t, d, "recomp_algorithm"), "#1: lz4 [lz4hc] zstd"; !strings.HasPrefix(got, want) || !strings.Contains(got, "#3: lz4 lz4hc [zstd] ") {
		t.Errorf("recomp_algorithm %q", got)
	}
	mustStore(t, d, "disksize", "1M")
	for i := range uint64(256) {
		write(t, d, stamped(t, i*31), int64(i)*PageSize)
	}
	k := d.disk.Load()
	priorities := func() (n [4]int) {
		for _, w := range k.table.each {
			n[k.priorityOf(w)]++
		}
		return n
	}
	mustStore(t, d, "recompress", "algo=lz4hc")
	first := priorities()
	if first[1] == 0 || first[3] != 0 {
		t.Errorf("by priority %v after lz4hc", first)
	}
	if m := flags(t, d); m["n"] != 0 {
		t.Errorf("%v: a better algorithm is left, and pages are given up", m)
	}
	mustStore(t, d, "recompress", "priority=3")
	second := priorities()
	if second[3] == 0 || second[1] >= first[1] {
		t.Errorf("by priority %v, then %v after zstd", first, second)
	}
	mustStore(t, d, "recompress", "priority=1")
	if third := priorities(); third[3] != second[3] {
		t.Errorf("by priority %v, then %v: recompressed with a worse one", second, third)
	}
}

// What each misuse returns; before and after the size is set.
func TestRecompressMisuse(t *testing.T) {
	for _, c := range []struct {
		name, value string
		ready       bool
		want        error
	}{
		{"recomp_algorithm", "priority=1", false, ErrInvalid},
		{"recomp_algorithm", "algo=lz5 priority=1", false, ErrInvalid},
		{"recomp_algorithm", "algo=" + strings.Repeat("x", 128), false, ErrTooBig},
		{"recomp_algorithm", "algo=zstd priority=0", false, ErrInvalid},
		{"recomp_algorithm", "algo=zstd priority=4", false, ErrInvalid},
		{"recomp_algorithm", "algo=zstd priority=x", false, ErrInvalid},
		{"recomp_algorithm", "algo", false, ErrInvalid},
		{"recomp_algorithm", "algo=zstd", true, ErrBusy},
		{"recomp_algorithm", "algo=zstd", false, nil},
		{"recompress", "type=idle", false, ErrInvalid},
		{"recompress", "type=cold", true, ErrInvalid},
		{"recompress", "type", true, ErrInvalid},
		{"recompress", "threshold=4000", true, ErrInvalid},
		{"recompress", "threshold=x", true, ErrInvalid},
		{"recompress", "priority=2", true, ErrInvalid},
		{"recompress", "priority=7", true, ErrInvalid},
		{"recompress", "algo=lz4", true, ErrInvalid},
		{"recompress", "colour=red", true, ErrInvalid},
		{"recompress", "max_pages=0 priority=2", true, ErrInvalid},
		{"recompress", "max_pages=0", false, ErrInvalid},
		{"recompress", "max_pages=0", true, nil},
		{"recompress", "threshold=0x10", true, ErrInvalid},
		{"recompress", "type=huge_idle priority=1 threshold=3000 max_pages=5\n", true, nil},
		{"recompress", "", true, nil},
		{"idle", "all", false, ErrInvalid},
		{"idle", "some", true, ErrInvalid},
		{"idle", "-1", true, ErrInvalid},
		{"idle", "all\n", true, nil},
		{"idle", "3600", true, nil},
		{"algorithm_params", "priority=1 level=5", false, nil},
		{"algorithm_params", "algo=zstd level=5", false, nil},
		{"algorithm_params", "priority=2 level=5", false, ErrInvalid},
		{"algorithm_params", "algo=deflate", false, ErrInvalid},
		{"algorithm", "lz5", true, ErrInvalid},
		{"algorithm", "zstd(level=100)", true, ErrInvalid},
		{"comp_algorithm", "zstd", true, ErrBusy},
	} {
		t.Run(fmt.Sprintf("%s=%.30q ready=%v", c.name, c.value, c.ready), func(t *testing.T) {
			size := int64(0)
			if c.ready {
				size = 1 << 20
			}
			err := store(recompressed(t, size), c.name, c.value)
			if !errors.Is(err, c.want) || (c.want == nil) != (err == nil) {
				t.Errorf("%v, want %v", err, c.want)
			}
		})
	}
	d := newDevice(t, 1<<20, testConfig(t))
	if err := store(d, "recompress", "type=idle"); !errors.Is(err, ErrInvalid) {
		t.Errorf("recompress without a secondary algorithm: %v", err)
	}
	d = recompressed(t, 1<<20)
	_, end, err := d.disk.Load().beginPass(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := store(d, "recompress", ""); !errors.Is(err, ErrAgain) {
		t.Errorf("recompress beside another pass: %v", err)
	}
	end()
}

// idle by age marks what was last used before, takes the mark from the rest, and
// never marks same-filled pages.
func TestIdleByAge(t *testing.T) {
	d := recompressed(t, 16*PageSize)
	k := d.disk.Load()
	for i := range uint64(8) {
		write(t, d, stamped(t, i), int64(i)*PageSize)
	}
	write(t, d, bytes.Repeat([]byte{7}, PageSize), 8*PageSize)
	now := bootSeconds()
	if now < 100 {
		t.Skip("needs a machine that has run for 100 seconds")
	}
	for slot := range uint64(9) {
		k.table.atimes[slot] = now - 10*uint32(slot)
	}
	mustStore(t, d, "idle", "all")
	mustStore(t, d, "idle", "45")
	if m := flags(t, d); m["i"] != 3 { // 50, 60 and 70 seconds
		t.Errorf("%v after idle 45", m)
	}
	mustStore(t, d, "idle", "4000000000")
	if m := flags(t, d); m["i"] != 0 {
		t.Errorf("%v after an age that no page has", m)
	}
}

// Writers, readers, discards and compaction beside recompression that never stops:
// no page is torn or old, and recompression has happened.
func TestRecompressBesideIO(t *testing.T) {
	const slots = 24
	rounds := 1500
	if invariants.Enabled {
		rounds = 50
	}
	cfg := testConfig(t)
	cfg.WriteBehind = 4
	cfg.Recompress[0] = params(t, "zstd(level=1)")
	d := newDevice(t, slots*PageSize, cfg)
	met := &d.disk.Load().kept.pp
	var writers, others sync.WaitGroup
	var stop atomic.Bool
	for w := range slots {
		writers.Go(func() {
			r := rand.New(rand.NewPCG(uint64(w), 17))
			// On a busy machine it takes more rounds until a pass meets a write.
			for seq := uint64(1); seq <= uint64(rounds) || met.changed.Load() == 0 && seq <= uint64(20*rounds); seq++ {
				page := stamped(t, r.Uint64())
				tag(page, uint64(w), seq)
				do := func(o *Request) {
					o.Stream = w % 2
					if _, err := d.Do(o); err != nil {
						t.Error(err)
					}
				}
				do(&Request{Op: OpWrite, Data: page, Off: int64(w) * PageSize})
				if r.IntN(8) == 0 {
					do(&Request{Op: OpDiscard, Len: PageSize, Off: int64(w) * PageSize})
					do(&Request{Op: OpWrite, Data: page, Off: int64(w) * PageSize})
				}
				got := make([]byte, PageSize)
				do(&Request{Op: OpRead, Data: got, Off: int64(w) * PageSize})
				if !bytes.Equal(got, page) {
					t.Errorf("slot %d, round %d: %s", w, seq, firstDifference(got, page))
					return
				}
			}
		})
	}
	for _, job := range []struct{ name, value string }{{"recompress", ""}, {"idle", "all"}, {"compact", "1"}, {"recompress", "type=huge_idle"}} {
		others.Go(func() {
			for !stop.Load() {
				if err := store(d, job.name, job.value); err != nil && !errors.Is(err, ErrAgain) {
					t.Errorf("%s: %v", job.name, err)
					return
				}
				time.Sleep(200 * time.Microsecond) // the writers shall get on, too
			}
		})
	}
	writers.Wait()
	stop.Store(true)
	others.Wait()
	c := d.disk.Load().kept.pp.load()
	t.Logf("%+v", c)
	if c.recompressed == 0 || c.changed == 0 {
		t.Errorf("%+v: one of these never happened", c)
	}
}

// A store that is full to its limit can be recompressed, and has room again.
func TestRecompressAtTheLimit(t *testing.T) {
	cfg := testConfig(t)
	cfg.MemLimit = 4 << 20
	cfg.Recompress[0] = params(t, "zstd")
	d := newDevice(t, 64<<20, cfg)
	slots := uint64(0)
	for ; ; slots++ {
		if _, err := d.WriteAt(stamped(t, slots), int64(slots)*PageSize); err != nil {
			break
		}
	}
	r, err := d.disk.Load().recompressPass(t.Context(), recompressOptions{})
	if err != nil || r.recompressed == 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	t.Logf("%d pages stored, %+v", slots, r)
	mustStore(t, d, "compact", "1")
	if used := column(t, d, "mm_stat", mmUsed); used > cfg.MemLimit*95/100 {
		t.Errorf("%d bytes are used of %d after recompression", used, cfg.MemLimit)
	}
	for slot := range slots {
		wantPage(t, d, slot, stamped(t, slot))
	}
}

// The algorithm changes while the disk serves: old pages stay readable, new ones
// get the new one, and the next worker goes on with it. Going back and forth takes
// no new number.
func TestAlgorithmChangesLive(t *testing.T) {
	h, ledger := newHolder(t), make([]byte, LedgerBytes)
	s, _ := generation(t, h, ledger)
	if _, err := s.HotAdd(); err != nil {
		t.Fatal(err)
	}
	d := s.Device(0)
	mustStore(t, d, "recomp_algorithm", "algo=zstd")
	mustStore(t, d, "disksize", "4M")
	algorithms := []string{"lz4", "zstd", "lz4(level=4)", "deflate", "lz4", "zstd", "s2", "zstd(level=7)"}
	for i, a := range algorithms {
		mustStore(t, d, "algorithm", a)
		for j := range 20 {
			n := uint64(i*20 + j)
			write(t, d, stamped(t, n*3), int64(n)*PageSize)
		}
	}
	if n := d.disk.Load().rowCount.Load(); n != 7 {
		t.Errorf("%d rows of parameters, want lz4, the secondary and the primary zstd, and four more", n)
	}
	if m := flags(t, d); m["r"] != 0 {
		t.Errorf("%v: pages compressed with a primary zstd count as recompressed", m)
	}
	mustStore(t, d, "recompress", "")
	recompressed := flags(t, d)["r"]
	if recompressed == 0 {
		t.Error("no page was recompressed")
	}
	s.Abandon()
	s, _ = generation(t, h, ledger)
	d = s.Device(0)
	if got := show(t, d, "algorithm"); got != "zstd(level=7)\n" {
		t.Errorf("algorithm %q", got)
	}
	if n := flags(t, d)["r"]; n != recompressed {
		t.Errorf("%d pages recompressed, it was %d", n, recompressed)
	}
	for n := range uint64(len(algorithms) * 20) {
		wantPage(t, d, n, stamped(t, n*3))
	}
	for level := 1; ; level++ { // until there are no numbers left
		err := store(d, "algorithm", fmt.Sprintf("lz4(level=%d)", 10+level))
		if errors.Is(err, ErrNoSpace) {
			break
		}
		if err != nil || level > maxParams {
			t.Fatalf("change %d: %v", level, err)
		}
	}
	mustStore(t, d, "algorithm", "deflate")
	closeSet(t, s)
}

// Dictionaries are read once, kept in the header, and the next worker has them
// without the file.
func TestDictionaries(t *testing.T) {
	dict := bytes.Join(testpages.Pages(t)[2000:2012], nil)
	files := map[string][]byte{"/dict": dict, "/empty": {}, "/long": make([]byte, MaxDictionary+1)}
	h, ledger := newHolder(t), make([]byte, LedgerBytes)
	next := func() *Set {
		t.Helper()
		cfg := testConfig(t)
		cfg.Source, cfg.Ledger = h, ledger
		cfg.ReadDictionary = func(path string, _ int64) ([]byte, error) {
			if b, ok := files[path]; ok {
				return b, nil
			}
			return nil, fmt.Errorf("%s: no such file", path)
		}
		s, err := NewSet(cfg)
		if err == nil {
			_, err = s.Adopt(h.regions(t))
		}
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := next()
	for range 2 {
		if _, err := s.HotAdd(); err != nil {
			t.Fatal(err)
		}
	}
	d := s.Device(0)
	for _, path := range []string{"/none", "/empty", "/long"} {
		if err := store(d, "algorithm_params", "dict="+path); !errors.Is(err, ErrInvalid) {
			t.Errorf("dict=%s: %v", path, err)
		}
	}
	mustStore(t, d, "recomp_algorithm", "algo=zstd priority=2")
	mustStore(t, d, "algorithm_params", "priority=0 dict=/dict")
	mustStore(t, d, "algorithm_params", "algo=zstd level=4 dict=/dict")
	s.Abandon()
	s = next() // it has the settings, and reads the file when it needs the bytes
	d = s.Device(0)
	mustStore(t, d, "disksize", "1M")
	mustStore(t, s.Device(1), "disksize", "1M")
	for i := range uint64(200) {
		write(t, d, stamped(t, 1900+i), int64(i)*PageSize)
		write(t, s.Device(1), stamped(t, 1900+i), int64(i)*PageSize)
	}
	if with, without := column(t, d, "mm_stat", mmCompr), column(t, s.Device(1), "mm_stat", mmCompr); with > without*97/100 {
		t.Errorf("%d bytes with a dictionary of neighbours, %d without", with, without)
	}
	mustStore(t, d, "recompress", "")
	clear(files)
	s.Abandon()
	s = next()
	d = s.Device(0)
	for i := range uint64(200) {
		wantPage(t, d, i, stamped(t, 1900+i))
	}
	mustStore(t, d, "algorithm", "lz4") // without the dictionary; pages with it stay readable
	for i := range uint64(100) {
		write(t, d, stamped(t, i), int64(i)*PageSize)
	}
	for i := range uint64(200) {
		n := i
		if i >= 100 {
			n += 1900
		}
		wantPage(t, d, i, stamped(t, n))
	}
	closeSet(t, s)
}

// block_state read in parts of any length is the same text; what changes before
// or behind a reader moves no line of it.
func TestBlockState(t *testing.T) {
	const slots = 2000
	d := recompressed(t, slots*PageSize)
	r := rand.New(rand.NewPCG(3, 4))
	for i := range slots {
		if r.IntN(3) > 0 {
			write(t, d, randomPage(t, r), int64(i)*PageSize)
		}
	}
	mustStore(t, d, "idle", "all")
	mustStore(t, d, "recompress", "max_pages=500")
	var attribute Attribute
	for _, a := range Attributes() {
		if a.Name == "block_state" {
			attribute = a
		}
	}
	whole := showParts(t, d, &attribute, 1<<20)
	if n := strings.Count(whole, "\n"); int64(n) != d.sums().pages || len(whole) != n*blockLine {
		t.Errorf("%d bytes in %d lines of %d pages", len(whole), n, d.sums().pages)
	}
	for _, c := range "shirn" {
		if !strings.ContainsRune(whole, c) {
			t.Errorf("no page is %c", c)
		}
	}
	for _, part := range []int{1 + blockLine/2, blockLine, 4096, 1000} {
		if got := showParts(t, d, &attribute, part); got != whole {
			t.Errorf("in parts of %d bytes it is another text", part)
		}
	}
	middle := int64(len(whole) / 2 / blockLine * blockLine)
	b := make([]byte, 1000*blockLine)
	n, err := attribute.ShowAt(d, b[:middle], 0)
	if err != nil || int64(n) != middle {
		t.Fatal(n, err)
	}
	if err := d.Discard(0, 100*PageSize); err != nil {
		t.Fatal(err)
	}
	if n, err = attribute.ShowAt(d, b, middle); err != nil || string(b[:n]) != whole[middle:][:n] {
		t.Errorf("%v; after a discard of what was read before, the next part is another", err)
	}
	if _, err := attribute.ShowAt(newDevice(t, 0, testConfig(t)), b, 0); !errors.Is(err, ErrInvalid) {
		t.Errorf("block_state without a disk: %v", err)
	}
}

// Settings that do not fit into what the next worker reads are refused.
func TestSettingsTooLong(t *testing.T) {
	cfg := testConfig(t)
	cfg.ReadDictionary = func(string, int64) ([]byte, error) { return make([]byte, 100), nil }
	d := newDevice(t, 0, cfg)
	mustStore(t, d, "algorithm_params", "dict=/"+strings.Repeat("x", 300))
	mustStore(t, d, "recomp_algorithm", "algo=zstd")
	if err := store(d, "algorithm_params", "priority=1 dict=/"+strings.Repeat("y", 300)); !errors.Is(err, ErrTooBig) {
		t.Errorf("two long paths: %v", err)
	}
	for text, want := range map[string]error{
		"colour red\n": ErrUnsupported, "algorithm\n": ErrCorrupt, "mem_limit x\n": ErrCorrupt, "algorithm lz9\n": ErrUnsupported,
		"dict0 zz /a\n": ErrCorrupt, "mem_limit -1\n": ErrCorrupt,
	} {
		if _, err := parseSettings(text); !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", text, err, want)
		}
	}
}

// A pass that finds no room under the limit moves as much together as it needs, not
// all there is.
func TestRecompressCompactsSome(t *testing.T) {
	const slots = 16384
	d := newDevice(t, 0, testConfig(t))
	set(t, d, "recomp_algorithm=algo=zstd priority=1", "limit_policy=wait=0s", "disksize="+strconv.Itoa(slots*PageSize))
	left := fragmented(t, d, slots)
	write(t, d, stamped(t, 3), PageSize)
	k := d.disk.Load()
	const over = 64
	set(t, d, fmt.Sprintf("mem_limit=%d", (used(d)-over)*PageSize))
	if _, err := k.recompressPass(t.Context(), recompressOptions{selector: selector{lo: 1, hi: 2}}); err != nil {
		t.Error(err)
	}
	if n := k.kept.compacted.Load(); n < over || n > over+2*ladderPiece {
		t.Errorf("%d pages were compacted, want what is needed, %d and a few more", n, over)
	}
	if more, err := d.Compact(); err != nil || more < ladderPiece {
		t.Errorf("%d pages are left to compact: %v", more, err)
	}
	if n := k.kept.pp.recompressed.Load(); n != 1 {
		t.Errorf("%d pages are recompressed", n)
	}
	for slot, page := range left {
		wantPage(t, d, slot, page)
	}
}
