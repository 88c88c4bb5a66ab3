package policy

import (
	"errors"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	for text, want := range map[string]string{
		"off":                       "off",
		"balanced":                  "balanced",
		"memory idle=120s":          "memory",
		"memory idle=1m30s rate=4M": "memory idle=1m30s rate=4M",
		"latency writeback=24h budget=0 algorithm=zstd(level=9)": "latency writeback=24h algorithm=zstd(level=9) budget=0",
		"balanced recompress=never cpu=100%":                     "balanced recompress=never cpu=100",
	} {
		r, err := Parse(text)
		if err != nil || r.String() != want {
			t.Errorf("%q: %q, %v; want %q", text, r, err, want)
			continue
		}
		if again, err := Parse(r.String()); err != nil || again != r {
			t.Errorf("%q read again: %+v, %v", r, again, err)
		}
	}
}

func TestParseErrors(t *testing.T) {
	for text, want := range map[string]string{
		"":                       "expected one of off, balanced, memory, latency",
		"fast":                   "expected one of off, balanced, memory, latency",
		"memory idle":            "NAME=VALUE",
		"memory idel=3m":         "nearest are idle",
		"memory idle=3":          "expected an age",
		"memory idle=1s":         "from 10s",
		"memory idle=-3m":        "expected an age",
		"memory budget=much":     "expected 0, or bytes",
		"memory cpu=101":         "0 to 100",
		"memory algorithm=":      "name of a codec",
		"memory writeback=1m":    "below recompress=5m",
		"memory rate=99999999P":  "expected 0, or bytes",
		"memory returns=-1":      "0 to 100",
		"memory idle=8760h0m1s ": "to 8760h",
	} {
		if _, err := Parse(text); !errors.Is(err, ErrRule) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

// Every preset can be had, and every setting has a name, a value that it reads
// itself, and words.
func TestPresets(t *testing.T) {
	for _, name := range Presets() {
		r, err := Named(name)
		if err != nil || r.Check() != nil {
			t.Fatal(name, err, r.Check())
		}
		r.Each(func(key, value, help string) {
			again := r
			if err := again.Set(key, value); err != nil || again != r || help == "" {
				t.Errorf("%s: %s=%s: %v", name, key, value, err)
			}
		})
	}
	if n := 8 * StateWords; n > 1024 {
		t.Errorf("the state takes %d bytes, there is room for 1024", n)
	}
}
