package blockdev

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
)

// One row per line of the kernel's errno table that applies: what is stored,
// before or after the size is set, and what comes back.
func TestMisuse(t *testing.T) {
	long := strings.Repeat("x", 128)
	for _, c := range []struct {
		name, value string
		ready       bool // the size is set first
		want        error
	}{
		{"disksize", "0", false, ErrInvalid},
		{"disksize", "text", false, ErrInvalid},
		{"disksize", "-4096", false, ErrInvalid},
		{"disksize", "17592186044417", false, ErrInvalid},
		{"disksize", "17T", false, ErrInvalid},
		{"disksize", "8M", true, ErrBusy},
		{"reset", "0", true, ErrInvalid},
		{"reset", "text", true, ErrInvalid},
		{"reset", "65536", true, ErrRange},
		{"mem_limit", "text", true, ErrInvalid},
		{"mem_limit", "-1", true, ErrInvalid},
		{"mem_used_max", "1", true, ErrInvalid},
		{"mem_used_max", "text", true, ErrInvalid},
		{"comp_algorithm", "lz5", false, ErrInvalid},
		{"comp_algorithm", "", false, ErrInvalid},
		{"comp_algorithm", "lzo", false, ErrInvalid},
		{"comp_algorithm", "lzo-rle", false, ErrInvalid},
		{"comp_algorithm", "842", false, ErrInvalid},
		{"comp_algorithm", long, false, ErrTooBig},
		{"comp_algorithm", "lz4", true, ErrBusy},
		{"algorithm_params", "level", false, ErrInvalid},
		{"algorithm_params", "level=", false, ErrInvalid},
		{"algorithm_params", "level=999999", false, ErrInvalid},
		{"algorithm_params", "priority=4", false, ErrInvalid},
		{"algorithm_params", "priority=1 level=3", false, ErrInvalid},
		{"algorithm_params", "algo=nothing", false, ErrInvalid},
		{"algorithm_params", "dict=/nowhere", false, ErrInvalid},
		{"algorithm_params", "colour=red", false, ErrInvalid},
		{"algorithm_params", "level=3", true, ErrBusy},
		{"compact", "1", false, ErrInvalid},
		{"populate", "1", false, ErrInvalid},
		{"populate", "2", true, ErrInvalid},
		{"check", "yes", true, ErrInvalid},
		{"stable", "sometimes", true, ErrInvalid},
		{"stable_stat", "1", false, ErrInvalid},
		{"stable_stat", "-1", true, ErrInvalid},
		{"write_behind", "-1", false, ErrInvalid},
		{"write_behind", "8", true, ErrBusy},

		{"disksize", "8M\n", false, nil},
		{"disksize", "5000", false, nil},
		{"comp_algorithm", "zstd\n", false, nil},
		{"comp_algorithm", "lz4(level=3)", false, nil},
		{"algorithm_params", "algo=lz4 level=5", false, nil},
		{"algorithm_params", "algo=zstd level=5", false, ErrInvalid},
		{"mem_limit", "1G\n", true, nil},
		{"mem_limit", "0", false, nil},
		{"mem_used_max", "0\n", true, nil},
		{"compact", "whatever", true, nil},
		{"populate", "1", true, nil},
		{"check", "1\n", true, nil},
		{"stable", "wait\n", true, nil},
		{"stable_stat", "64", true, nil},
		{"reset", "1\n", true, nil},
		{"reset", "1", false, nil},
	} {
		t.Run(fmt.Sprintf("%s=%.20q ready=%v", c.name, c.value, c.ready), func(t *testing.T) {
			size := int64(0)
			if c.ready {
				size = 1 << 20
			}
			d := newDevice(t, size, testConfig(t))
			err := store(d, c.name, c.value)
			if !errors.Is(err, c.want) || (c.want == nil) != (err == nil) {
				t.Errorf("%v, want %v", err, c.want)
			}
			if err != nil && len(err.Error()) < 20 {
				t.Errorf("the error does not say what was expected: %q", err)
			}
		})
	}
}

func TestDisksizeIsRoundedUp(t *testing.T) {
	d := newDevice(t, 0, testConfig(t))
	if got := show(t, d, "initstate"); got != "0\n" {
		t.Errorf("initstate %q before the size is set", got)
	}
	if err := store(d, "disksize", "5000"); err != nil {
		t.Fatal(err)
	}
	if got := show(t, d, "disksize"); got != "8192\n" {
		t.Errorf("disksize %q, want 8192", got)
	}
	if got := show(t, d, "initstate"); got != "1\n" {
		t.Errorf("initstate %q after the size is set", got)
	}
}

// reset is busy while the disk is open, and then puts everything back.
func TestReset(t *testing.T) {
	cfg := testConfig(t)
	d := newDevice(t, 0, cfg)
	for name, value := range map[string]string{"comp_algorithm": "zstd", "mem_limit": "4M", "stable": "wait", "write_behind": "4"} {
		if err := store(d, name, value); err != nil {
			t.Fatal(err)
		}
	}
	if err := store(d, "disksize", "1M"); err != nil {
		t.Fatal(err)
	}
	write(t, d, stamped(t, 1), 0)
	if err := d.Open(); err != nil {
		t.Fatal(err)
	}
	if err := store(d, "reset", "1"); !errors.Is(err, ErrBusy) {
		t.Errorf("reset while open: %v, want ErrBusy", err)
	}
	wantPage(t, d, 0, stamped(t, 1))
	d.Close()
	if err := store(d, "reset", "1"); err != nil {
		t.Fatal(err)
	}
	if got := show(t, d, "mm_stat"); strings.Join(strings.Fields(got), " ") != "0 0 0 0 0 0 0 0 0" {
		t.Errorf("mm_stat after reset: %q", got)
	}
	if got := show(t, d, "comp_algorithm"); !strings.Contains(got, "[lz4] ") || !strings.HasSuffix(got, " \n") {
		t.Errorf("comp_algorithm after reset: %q, want lz4 again, and a space at the end as the kernel has", got)
	}
	if _, err := d.ReadAt(make([]byte, 1), 0); !errors.Is(err, ErrNotReady) {
		t.Errorf("read after reset: %v, want ErrNotReady", err)
	}
	if err := store(d, "disksize", "2M"); err != nil {
		t.Fatal(err)
	}
	wantPage(t, d, 0, make([]byte, PageSize))
}

func TestHotAddAndRemove(t *testing.T) {
	set, err := NewSet(testConfig(t))
	if err != nil {
		t.Fatal(err)
	}
	for want := range 3 {
		if id, err := set.HotAdd(); err != nil || id != want {
			t.Fatalf("hot_add: %d, %v, want %d", id, err, want)
		}
	}
	d := set.Device(1)
	if err := d.SetSize(1 << 20); err != nil {
		t.Fatal(err)
	}
	if err := d.Open(); err != nil {
		t.Fatal(err)
	}
	for id, want := range map[int]error{1: ErrBusy, 7: ErrNoDevice, -1: ErrInvalid} {
		if err := set.HotRemove(id); !errors.Is(err, want) {
			t.Errorf("hot_remove %d: %v, want %v", id, err, want)
		}
	}
	if err := d.Check(); err != nil {
		t.Error(err)
	}
	d.Close()
	if err := set.HotRemove(1); err != nil {
		t.Fatal(err)
	}
	if err := d.Open(); !errors.Is(err, ErrNoDevice) {
		t.Errorf("open of a removed device: %v, want ErrNoDevice", err)
	}
	if id, err := set.HotAdd(); err != nil || id != 1 {
		t.Errorf("hot_add after hot_remove: %d, %v, want the free number 1", id, err)
	}
	if err := set.Close(); err != nil {
		t.Fatal(err)
	}
}

// Whatever is stored, an attribute answers with one of the package's errors
// and never panics.
func FuzzStore(f *testing.F) {
	for i, a := range Attributes() {
		for _, v := range []string{"", "0", "1", "-1", "4096", "8M", "text", "level=3", "algo=zstd", "lz4(level=2)"} {
			if a.Writable() {
				f.Add(i, v)
			}
		}
	}
	f.Fuzz(func(t *testing.T, i int, value string) {
		rows := Attributes()
		if i < 0 || i >= len(rows) || !rows[i].Writable() {
			return
		}
		set, err := NewSet(testConfig(t))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := set.HotAdd(); err != nil {
			t.Fatal(err)
		}
		d := set.Device(0)
		err = rows[i].Do(context.Background(), d, value)
		if err != nil && !errors.Is(err, ErrInvalid) && !errors.Is(err, ErrTooBig) && !errors.Is(err, ErrRange) &&
			!errors.Is(err, ErrBusy) {
			t.Errorf("%s = %q: %v is none of the kinds that have an errno", rows[i].Name, value, err)
		}
		if err := d.Check(); err != nil {
			t.Error(err)
		}
		if err := set.Close(); err != nil {
			t.Fatal(err)
		}
	})
}
