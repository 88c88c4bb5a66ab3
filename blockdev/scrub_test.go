package blockdev

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"
)

// figure is a line "name value" of an attribute.
func figure(tb testing.TB, d *Device, attribute, name string) int64 {
	tb.Helper()
	for line := range strings.Lines(show(tb, d, attribute)) {
		if key, value, _ := strings.Cut(strings.TrimSpace(line), " "); key == name {
			n, err := strconv.ParseInt(value, 10, 64)
			if err != nil {
				tb.Fatal(err)
			}
			return n
		}
	}
	return -1
}

// await waits until a figure is at least n.
func await(tb testing.TB, d *Device, attribute, name string, n int64) {
	tb.Helper()
	for deadline := time.Now().Add(2 * time.Minute); figure(tb, d, attribute, name) < n; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			tb.Fatalf("%s of %s is %d, awaited %d", name, attribute, figure(tb, d, attribute, name), n)
		}
	}
}

// mixed fills a disk with pages of every kind but staged ones.
func mixed(tb testing.TB, d *Device, slots int64) {
	tb.Helper()
	for slot := range slots {
		page := stamped(tb, uint64(slot))
		switch slot % 10 {
		case 0:
			page = incompressible()
		case 1:
			fill(page, uint64(slot)<<32|7, 0)
		case 2:
			continue
		}
		write(tb, d, page, slot*PageSize)
	}
}

// The scrub finds damage that nobody reads, goes on where it was in the next
// generation, with its rate, and stops when it is told to.
func TestScrub(t *testing.T) {
	const slots = 600
	g := newGenerations(t, slots*PageSize, testConfig(t))
	mixed(t, g.d, slots)
	if n := figure(t, g.d, "integrity_stat", "scrub_pages"); n != 0 {
		t.Errorf("%d pages are scrubbed at rate 0", n)
	}
	if err := store(g.d, "scrub", strconv.Itoa(maxScrub+1)); !errors.Is(err, ErrInvalid) {
		t.Errorf("a rate too high: %v", err)
	}
	if err := store(g.d, "scrub", "10000"); err != nil {
		t.Fatal(err)
	}
	await(t, g.d, "integrity_stat", "scrub_passes", 1)
	if n := figure(t, g.d, "integrity_stat", "corrupt"); n != 0 {
		t.Errorf("%d pages of a sound disk are corrupt", n)
	}
	k := g.d.disk.Load()
	const victim = 333
	object := k.region.Bytes(k.layout.arena.off+int64(k.table.load(victim).place())*16+50, 1)
	k.table.lock(victim)
	object[0] ^= 4
	k.table.unlock(victim)
	await(t, g.d, "integrity_stat", "scrub_corrupt", 1)
	if n := figure(t, g.d, "integrity_stat", "last_corrupt"); n != victim {
		t.Errorf("the last corrupt page is %d, want %d", n, victim)
	}
	k.table.lock(victim)
	object[0] ^= 4
	k.table.unlock(victim)
	passes := figure(t, g.d, "integrity_stat", "scrub_passes")
	k.end()
	close(k.stop)
	k.wg.Wait()
	g.adopt(k)
	if got := show(t, g.d, "scrub"); got != "10000\n" {
		t.Errorf("the next generation scrubs at %q", got)
	}
	await(t, g.d, "integrity_stat", "scrub_passes", passes+1)
	if err := store(g.d, "scrub", "0"); err != nil {
		t.Fatal(err)
	}
	if got := figure(t, g.d, "integrity_stat", "scrub_rate"); got != 0 {
		t.Errorf("rate %d after it was put off", got)
	}
	g.end()
}

// A check beside the I/O tells how far it is, finds what is damaged, does not
// count what is written meanwhile, and one runs at a time.
func TestInspect(t *testing.T) {
	const slots = 3000
	cfg := testConfig(t)
	cfg.WriteBehind = 16
	d := newDevice(t, slots*PageSize, cfg)
	mixed(t, d, slots)
	if err := store(d, "check", "1"); err != nil {
		t.Fatalf("check of a sound disk: %v\n%s", err, show(t, d, "check"))
	}
	end := make(chan error, 1)
	go func() { end <- store(d, "check", "rate=4") }() // some seconds, if nobody ends it
	await(t, d, "check", "checked", 100)
	if of := figure(t, d, "check", "of"); of < slots/2 || of > slots {
		t.Errorf("of %d pages", of)
	}
	if err := store(d, "check", "1"); !errors.Is(err, ErrAgain) {
		t.Errorf("a second check beside the first: %v, want ErrAgain", err)
	}
	for slot := range int64(200) {
		write(t, d, stamped(t, uint64(slot*7)), slot*PageSize)
	}
	if err := store(d, "reset", "1"); err != nil {
		t.Fatal(err)
	}
	if err := <-end; !errors.Is(err, ErrNoDevice) {
		t.Errorf("a check whose disk is reset: %v, want ErrNoDevice", err)
	}
	if err := store(d, "check", "1"); err != nil {
		t.Errorf("check of a device without a disk: %v", err)
	}
	for _, value := range []string{"", "0", "rate=0", "rate=x", "strictly"} {
		if err := store(d, "check", value); !errors.Is(err, ErrInvalid) {
			t.Errorf("check %q: %v", value, err)
		}
	}
}

// Whatever a check beside the I/O finds is what a strict one finds.
func TestInspectFindsWhatCheckFinds(t *testing.T) {
	const slots = 500
	for what, damage := range map[string]func(k *disk, slot uint64){
		"object": func(k *disk, slot uint64) {
			k.region.Bytes(k.layout.arena.off+int64(k.table.load(slot).place())*16+50, 1)[0] ^= 1
		},
		"word":  func(k *disk, slot uint64) { k.table.words[slot] ^= 1 << 20 },
		"gauge": func(k *disk, _ uint64) { k.lanes[0].pages.Add(1) },
		"count": func(k *disk, _ uint64) { k.account.used.Add(1) },
	} {
		t.Run(what, func(t *testing.T) {
			d := newDevice(t, slots*PageSize, testConfig(t))
			mixed(t, d, slots)
			const victim = 103
			damage(d.disk.Load(), victim)
			wrong := store(d, "check", "1")
			text := show(t, d, "check")
			strict := store(d, "check", "strict")
			if !errors.Is(wrong, ErrCorrupt) || !errors.Is(strict, ErrCorrupt) {
				t.Fatalf("beside I/O %v, strictly %v", wrong, strict)
			}
			if what == "object" || what == "word" {
				if got := figure(t, d, "check", "first_corrupt"); got != victim || !strings.Contains(text, fmt.Sprintf("first_corrupt %d\n", victim)) {
					t.Errorf("the first corrupt page is %d, want %d", got, victim)
				}
			}
			switch what { // put back: the device is checked when it ends
			case "gauge":
				d.disk.Load().lanes[0].pages.Add(-1)
			case "count":
				d.disk.Load().account.used.Add(-1)
			default:
				damage(d.disk.Load(), victim)
			}
		})
	}
}

// A check that is interrupted ends at once.
func TestInspectInterrupted(t *testing.T) {
	const slots = 1000
	d := newDevice(t, slots*PageSize, testConfig(t))
	mixed(t, d, slots)
	ctx, cancel := context.WithCancel(t.Context())
	end := make(chan error, 1)
	go func() {
		for _, a := range Attributes() {
			if a.Name == "check" {
				end <- a.Do(ctx, d, "rate=1")
			}
		}
	}()
	await(t, d, "check", "checked", 1)
	cancel()
	if err := <-end; !errors.Is(err, ErrInterrupted) {
		t.Errorf("%v, want ErrInterrupted", err)
	}
	if n := figure(t, d, "check", "checked"); n != -1 {
		t.Errorf("it still says that %d pages are checked", n)
	}
}

// A rate is kept on disks of any size.
func TestRateOfManyPages(t *testing.T) {
	for gib, want := range map[int64]time.Duration{1: time.Second, 9: 9 * time.Second, 1000: 1000 * time.Second, 16 << 10: 16384 * time.Second} {
		if got := atRate(gib<<30/PageSize, checkRate); got != want {
			t.Errorf("%d GiB take %v at %d MiB a second, want %v", gib, got, checkRate, want)
		}
	}
}
