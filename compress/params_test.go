package compress

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestParseAlgorithm(t *testing.T) {
	for _, c := range []struct {
		text, want string
		level      int
	}{
		{"lz4", "lz4", 1},
		{" lz4\n", "lz4", 1},
		{"lz4(level=1)", "lz4", 1},
		{"lz4(level=3)", "lz4(level=3)", 3},
		{"lz4hc ( level=12 )", "lz4hc(level=12)", 12},
		{"lz4hc", "lz4hc", 9},
		{"zstd(level=-5)", "zstd(level=-5)", -5},
		{"zstd()", "zstd", 3},
		{"s2(level=2)", "s2(level=2)", 2},
		{"minlz", "minlz", 1},
		{"deflate(level=9,deflate.winbits=-12)", "deflate(level=9,deflate.winbits=-12)", 9},
		{"deflate(deflate.winbits=-12 level=6)", "deflate(deflate.winbits=-12)", 6},
		{"none", "none", 0},
	} {
		p, err := ParseAlgorithm(c.text)
		if err != nil || p.String() != c.want || p.level() != c.level {
			t.Errorf("%q: %v level %d, %v; want %s level %d", c.text, p, p.level(), err, c.want, c.level)
			continue
		}
		if again, err := ParseAlgorithm(p.String()); err != nil || !again.equal(p) {
			t.Errorf("%q: String %q does not parse to itself: %v", c.text, p, err)
		}
	}
}

func TestParseAlgorithmErrors(t *testing.T) {
	for _, c := range []struct {
		text  string
		err   error
		words string
	}{
		{"", ErrUnknown, "lz4hc"},
		{"lz", ErrUnknown, "nearest is lz4,"},
		{"LZ4", ErrUnknown, "nearest is lz4,"},
		{"zst", ErrUnknown, "nearest is zstd,"},
		{"snappy", ErrUnknown, "there are lz4, lz4hc, zstd"},
		{"defalte", ErrUnknown, "nearest is deflate,"},
		{"lzo", ErrUnknown, "lz4"},
		{"lzo-rle", ErrUnknown, "lz4"},
		{"lzo-rle(level=3)", ErrUnknown, "lz4"},
		{"842", ErrUnknown, "use lz4"},
		{strings.Repeat("x", 127), ErrUnknown, "nearest"},
		{strings.Repeat("x", 128), ErrTooLong, "128"},
		{"lz4(level=3", ErrInvalid, "parenthesis"},
		{"lz4(level=3) x", ErrInvalid, "parenthesis"},
		{"lz4(level)", ErrInvalid, "no value"},
		{"lz4(level=)", ErrInvalid, "no value"},
		{"lz4(level=fast)", ErrInvalid, "number"},
		{"lz4(level=0)", ErrInvalid, "default"},
		{"lz4(level=-1)", ErrInvalid, "1 to 65537"},
		{"lz4(level=65538)", ErrInvalid, "1 to 65537"},
		{"lz4(level=99999999999999999999)", ErrInvalid, "number"},
		{"lz4hc(level=17)", ErrInvalid, "1 to 16"},
		{"zstd(level=23)", ErrInvalid, "to 22"},
		{"minlz(level=3)", ErrInvalid, "1 to 2"},
		{"s2(level=3)", ErrInvalid, "1 to 2"},
		{"deflate(level=10)", ErrInvalid, "1 to 9"},
		{"deflate(deflate.winbits=8)", ErrInvalid, "-15 to -9"},
		{"lz4(deflate.winbits=-9)", ErrInvalid, "for deflate"},
		{"none(level=1)", ErrInvalid, "no level"},
		{"lz4(speed=1)", ErrInvalid, "unknown key"},
		{"lz4(level=1,level=2)", ErrInvalid, "twice"},
		{"lz4(priority=1)", ErrInvalid, "only level"},
		{"zstd(dict=/a)", ErrInvalid, "only level"},
	} {
		p, err := ParseAlgorithm(c.text)
		if !errors.Is(err, c.err) || !strings.Contains(err.Error(), c.words) {
			t.Errorf("%q: %v, %v; want %v with %q", c.text, p, err, c.err, c.words)
		}
	}
}

// What goes with objects tells frames from blocks; text without a word of it is
// an older program's, whose zstd kept frames.
func TestFormat(t *testing.T) {
	for _, p := range every() {
		again, err := ParseFormat(p.Format())
		if err != nil || !again.equal(p) {
			t.Errorf("%q is read as %+v: %v", p.Format(), again, err)
		}
	}
	for text, want := range map[string]Params{
		"zstd":               {Codec: "zstd", Framed: true},
		"zstd(level=7)":      {Codec: "zstd", Level: 7, Framed: true},
		"zstd(level=7) bare": {Codec: "zstd", Level: 7},
		"lz4":                {Codec: "lz4"},
	} {
		if p, err := ParseFormat(text); err != nil || !p.equal(want) {
			t.Errorf("%q is read as %+v: %v", text, p, err)
		}
		if _, err := ParseAlgorithm(text); (err != nil) != strings.HasSuffix(text, bare) {
			t.Errorf("%q as an algorithm: %v", text, err) // a program that knows no blocks refuses them
		}
	}
	for _, text := range []string{"", "bare", " bare", "lz4 bare", "zstd bare bare", "zstd(level=99) bare"} {
		if p, err := ParseFormat(text); err == nil {
			t.Errorf("%q is read as %+v", text, p)
		}
	}
}

func TestParseParams(t *testing.T) {
	got, err := ParseParams("algo=zstd level=8 priority=2 dict=/etc/d deflate.winbits=-11\n")
	want := Tuning{Algo: "zstd", Level: 8, Priority: 2, DictPath: "/etc/d", WinBits: -11}
	if err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := ParseParams(""); err != nil || got != (Tuning{}) {
		t.Errorf("nothing: %+v, %v", got, err)
	}
	for text, want := range map[string]error{
		"level": ErrInvalid, "level=": ErrInvalid, "=3": ErrInvalid, "colour=red": ErrInvalid,
		"priority=4": ErrInvalid, "priority=-1": ErrInvalid, "priority=x": ErrInvalid,
		"dict=": ErrInvalid, "algo=": ErrInvalid, "level=1 level=1": ErrInvalid,
		"algo=zst": ErrUnknown, "algo=lzo": ErrUnknown, "algo=" + strings.Repeat("x", 200): ErrTooLong,
	} {
		if _, err := ParseParams(text); !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", text, err, want)
		}
	}
	if _, err := (Tuning{Level: 8}).Params("s2", nil); !errors.Is(err, ErrInvalid) {
		t.Errorf("s2 level 8: %v", err)
	}
	if _, err := (Tuning{}).Params("lz4hc", []byte("d")); !errors.Is(err, ErrInvalid) {
		t.Errorf("a dictionary for lz4hc: %v", err)
	}
	if p, err := (Tuning{Level: 8}).Params("zstd", []byte("dictionary")); err != nil || p.Level != 8 || len(p.Dict) != 10 {
		t.Errorf("%v, %v", p, err)
	}
}

func TestList(t *testing.T) {
	if got, want := List("lz4"), "[lz4] lz4hc zstd minlz s2 deflate brotli none"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got := List("zstd"); !strings.Contains(got, " [zstd] ") || strings.Count(got, "[") != 1 {
		t.Errorf("%q", got)
	}
	if got := List("gone"); strings.Contains(got, "[") {
		t.Errorf("%q", got)
	}
	if names := Codecs(); names[0] != "lz4" || slices.Contains(names, "lzo") {
		t.Errorf("%q", names)
	}
}
