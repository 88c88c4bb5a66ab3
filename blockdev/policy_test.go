package blockdev

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/zramfs/zramfs/internal/invariants"
	"github.com/zramfs/zramfs/internal/policy"
)

// policyDevice makes a device whose policy's clock is an hour ahead, on a
// machine that has time.
func policyDevice(t *testing.T, size int64, machine policy.Machine) *Device {
	cfg := testConfig(t)
	cfg.faults = &faults{}
	cfg.faults.later.Store(3600)
	cfg.Machine = func() policy.Machine { return machine }
	return newDevice(t, size, cfg)
}

func attribute(t *testing.T, d *Device, name string) string {
	t.Helper()
	for _, a := range Attributes() {
		if a.Name == name {
			b, err := a.Show(d, nil)
			if err != nil {
				t.Fatal(err)
			}
			return string(b)
		}
	}
	t.Fatalf("no attribute %s", name)
	return ""
}

func storePolicy(d *Device, value string) error {
	for _, a := range policyAttributes() {
		if a.Name == "policy" {
			return a.Store(d, value+"\n")
		}
	}
	panic("no attribute policy")
}

// policyFigure finds a number of policy_stat.
func policyFigure(t *testing.T, d *Device, name string) (n int64) {
	t.Helper()
	for line := range strings.Lines(attribute(t, d, "policy_stat")) {
		if _, err := fmt.Sscanf(line, name+" %d\n", &n); err == nil {
			return n
		}
	}
	t.Fatalf("policy_stat has no %s", name)
	return 0
}

// until waits for something that a goroutine does.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// Policy memory makes what a corpus takes smaller by recompression, while reads
// and writes go on and find what was written.
func TestPolicyMemory(t *testing.T) {
	pages := 4096
	if invariants.Enabled { // compression is slow
		pages = 1024
	}
	d := policyDevice(t, int64(2*pages)*PageSize, policy.Machine{})
	want := make([][]byte, pages)
	for i := range want {
		want[i] = stamped(t, uint64(i))
		write(t, d, want[i], int64(i)*PageSize)
	}
	before := d.memory()
	if err := storePolicy(d, "memory"); err != nil {
		t.Fatal(err)
	}
	if text := attribute(t, d, "recomp_algorithm"); !strings.Contains(text, "[brotli]") {
		t.Fatalf("recomp_algorithm is %q", text)
	}
	// Others write beyond the corpus, and into its last pages.
	stop := make(chan struct{})
	var others sync.WaitGroup
	end := sync.OnceFunc(func() { close(stop); others.Wait() })
	defer end()
	for g := range 2 {
		others.Go(func() {
			r := rand.New(rand.NewPCG(1, uint64(g)))
			last := map[int][]byte{}
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				i := r.IntN(pages - 256)
				if got := read(t, d, PageSize, int64(i)*PageSize); !bytes.Equal(got, want[i]) {
					t.Errorf("page %d is another", i)
					return
				}
				i = pages - 256 + 2*r.IntN(200) + g
				if p, ok := last[i]; ok && !bytes.Equal(read(t, d, PageSize, int64(i)*PageSize), p) {
					t.Errorf("page %d, that was written meanwhile, is another", i)
					return
				}
				last[i] = want[r.IntN(pages)]
				write(t, d, last[i], int64(i)*PageSize)
				time.Sleep(200 * time.Microsecond)
			}
		})
	}
	until(t, "the corpus to be recompressed", func() bool {
		return policyFigure(t, d, "recompress_pages") > int64(pages)/2 && policyFigure(t, d, "mark_pages") > 0
	})
	end()
	until(t, "memory to be returned", func() bool { return d.memory().used < before.used*95/100 })
	after := d.memory()
	t.Logf("mem_used_total %d pages before, %d after; compr_data_size %d, %d", before.used, after.used, before.bytes, after.bytes)
	if n := policyFigure(t, d, "recompress_bytes"); n < before.bytes/20 {
		t.Errorf("%d bytes saved of %d", n, before.bytes)
	}
	if text := attribute(t, d, "policy_explain"); !strings.Contains(text, "recompress (cold) of pages 5m old") {
		t.Errorf("explained as\n%s", text)
	}
}

// While the CPUs are busy nothing is done, and it is told why; nor after the
// policy is off.
func TestPolicyHeld(t *testing.T) {
	d := policyDevice(t, 64*PageSize, policy.Machine{Busy: 900})
	for i := range uint64(32) {
		write(t, d, stamped(t, i), int64(i)*PageSize)
	}
	if err := storePolicy(d, "balanced recompress=30m"); err != nil {
		t.Fatal(err)
	}
	until(t, "a decision to be held", func() bool { return policyFigure(t, d, "held_busy") > 0 })
	if n := policyFigure(t, d, "recompress_tried"); n != 0 {
		t.Errorf("%d pages recompressed", n)
	}
	if text := attribute(t, d, "policy_explain"); !strings.Contains(text, "held: the CPUs are busy more than 50% of the time") {
		t.Errorf("explained as\n%s", text)
	}
	if err := storePolicy(d, "off"); err != nil {
		t.Fatal(err)
	}
	if text := attribute(t, d, "policy"); text != "[off] balanced memory latency\n" {
		t.Errorf("policy is %q", text)
	}
}

// The policy, what it counted and its budget are the next worker's, and reset
// puts back what the set has.
func TestPolicyAdopted(t *testing.T) {
	h := newHolder(t)
	cfg := testConfig(t)
	cfg.Source, cfg.Ledger = h, make([]byte, LedgerBytes)
	cfg.faults = &faults{}
	cfg.faults.later.Store(3600)
	set, err := NewSet(cfg)
	if err != nil {
		t.Fatal(err)
	}
	id, err := set.HotAdd()
	if err != nil {
		t.Fatal(err)
	}
	d := set.Device(id)
	if err := d.SetSize(64 * PageSize); err != nil {
		t.Fatal(err)
	}
	for i := range uint64(32) {
		write(t, d, stamped(t, i), int64(i)*PageSize)
	}
	const rules = "memory idle=1m algorithm=zstd(level=5)"
	if err := storePolicy(d, rules); err != nil {
		t.Fatal(err)
	}
	until(t, "pages to be recompressed", func() bool { return policyFigure(t, d, "recompress_runs") > 0 })
	k := d.disk.Load()
	set.Abandon()
	tried := int64(policyState(k.region)[0].Load())

	next, err := NewSet(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := next.Adopt(h.regions(t)); err != nil {
		t.Fatal(err)
	}
	if err := k.region.Close(); err != nil {
		t.Fatal(err)
	}
	d = next.Device(id)
	defer func() {
		if err := errors.Join(d.Check(), next.Close()); err != nil {
			t.Error(err)
		}
	}()
	if text := attribute(t, d, "policy"); !strings.Contains(text, "["+rules+"]") {
		t.Errorf("the next worker's policy is %q", text)
	}
	if n := policyFigure(t, d, "steps"); n < tried || n == 0 {
		t.Errorf("the next worker counts %d steps, the last one had %d", n, tried)
	}
	if policyFigure(t, d, "recompress_runs") == 0 {
		t.Error("the next worker has forgotten what was done")
	}
	before := policyFigure(t, d, "steps")
	until(t, "the next worker to go on", func() bool { return policyFigure(t, d, "steps") > before })
	if err := d.Reset(); err != nil {
		t.Fatal(err)
	}
	if text := attribute(t, d, "policy"); !strings.HasPrefix(text, "[off]") {
		t.Errorf("policy after reset is %q", text)
	}
}

// What is no policy is refused with words, and changes nothing.
func TestPolicyRefused(t *testing.T) {
	d := newDevice(t, 64*PageSize, testConfig(t))
	for _, value := range []string{"", "fast", "memory idle=0s1", "memory algorithm=lzma", "balanced writeback=1m", "memory algorithm=zstd(level=99)"} {
		if err := storePolicy(d, value); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: %v, want ErrInvalid", value, err)
		}
	}
	if text := attribute(t, d, "policy"); !strings.HasPrefix(text, "[off]") {
		t.Errorf("policy is %q", text)
	}
	cfg := testConfig(t)
	cfg.Rules, _ = policy.Parse("memory algorithm=lzma")
	if _, err := NewSet(cfg); !errors.Is(err, ErrInvalid) {
		t.Errorf("a set with an unknown codec: %v", err)
	}
}

// What is cold goes to the backing device, no more of it in a day than the
// budget says; a device that is slow delays no page that is in RAM, and a worker
// that dies has forgotten nothing of the budget.
func TestPolicyWriteback(t *testing.T) {
	const pages, budget = 256, 64
	m := newMemBacking(pages)
	cfg := testConfig(t)
	cfg.Backing = backings{"dev": m}
	cfg.faults = &faults{}
	cfg.faults.later.Store(3 * 3600)
	cfg.Machine = func() policy.Machine { return policy.Machine{} }
	d := newDevice(t, 0, cfg)
	set(t, d, "backing_dev=dev", "writeback_promote=0")
	if err := d.SetSize(2 * pages * PageSize); err != nil {
		t.Fatal(err)
	}
	want := make([][]byte, pages)
	for i := range want {
		want[i] = stamped(t, uint64(i))
		write(t, d, want[i], int64(i)*PageSize)
	}
	stall := make(chan struct{})
	m.set(func() { m.stall = stall })
	if err := storePolicy(d, fmt.Sprintf("memory budget=%dK recompress=never", budget*4)); err != nil {
		t.Fatal(err)
	}
	until(t, "a write to the device that stalls", func() bool { return m.stalled.Load() > 0 })
	for i := range want { // all are in RAM still
		if !bytes.Equal(read(t, d, PageSize, int64(i)*PageSize), want[i]) {
			t.Fatalf("page %d is another", i)
		}
	}
	if text := attribute(t, d, "policy_stat"); !strings.Contains(text, fmt.Sprintf("budget_spent %d\n", budget)) {
		t.Errorf("the budget is not charged while the write is under way:\n%s", text)
	}
	m.set(func() { m.stall = nil })
	close(stall)
	until(t, "the budget to be used up", func() bool { return policyFigure(t, d, "held_budget") > 0 })
	if n := states(d, backed); n > budget || n == 0 {
		t.Errorf("%d pages are on the device, the budget is %d", n, budget)
	}
	if text := attribute(t, d, "policy_explain"); !strings.Contains(text, "held: the budget of 256K a day is used up") {
		t.Errorf("explained as\n%s", text)
	}
	for i := range want {
		if !bytes.Equal(read(t, d, PageSize, int64(i)*PageSize), want[i]) {
			t.Fatalf("page %d is another", i)
		}
	}
}

// A look at a GiB of pages.
func BenchmarkPolicyLook(b *testing.B) {
	const pages = 1 << 18
	d := newDevice(b, pages*PageSize, testConfig(b))
	page := make([]byte, PageSize)
	for i := range uint64(pages) {
		copy(page, "a page that is no pattern")
		page[100] = byte(i)
		write(b, d, page, int64(i)*PageSize)
	}
	k := d.disk.Load()
	r, err := policy.Named("memory")
	if err != nil {
		b.Fatal(err)
	}
	k.governor.mu.Lock()
	k.governor.engine.SetRules(r)
	k.governor.mu.Unlock()
	for b.Loop() {
		k.governor.look = policyWalk{}
		for k.policyWalk(int64(k.clock.Load())) == nil {
		}
	}
}
