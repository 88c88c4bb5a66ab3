package compress

import (
	"bytes"
	"fmt"
	"strings"
)

// Params is a codec with its settings. Two streams that are given the same
// Params compress a page to the same bytes, and what one wrote the other reads.
//
// The zero value of a field means the codec's default:
//
//	lz4      level 1..65537 is the kernel's acceleration: higher is faster and worse; default 1.
//	         Dict is any bytes as content; the last 60 KiB of it are of use.
//	lz4hc    level 1..16: 2^(level-1) candidates are tried for each match, as in the kernel; default 9
//	zstd     level -131072..22, default 3. The library has four strengths: below 3, 3 to 5, 6 to 9, from 10.
//	         Dict is a trained dictionary, or any bytes as content.
//	minlz    level 1 fastest, 2 balanced; default 1. The library's level 3 clears 10 MiB of tables for each page.
//	s2       level 1 fast, 2 better; default 1. The library's "best" clears 4 MiB for each page.
//	deflate  level 1..9, default 6. WinBits -15..-9 is accepted and has no effect: the
//	         library's window is 32 KiB, a page is 4.
//	brotli   level 1..4, default 1: how often the way through a page is searched for
//	none     takes no settings; every page is incompressible
type Params struct {
	Codec   string
	Level   int
	WinBits int
	Dict    []byte // not changed after the Params was given to Set.Add, which copies it
	Framed  bool   // zstd stores whole frames, as programs did that knew no other: no user asks for it
}

// normal gives p with an explicit default written as zero, so that equal
// settings are equal values. The error wraps ErrUnknown, ErrTooLong or ErrInvalid.
func (p Params) normal() (Params, error) {
	f, err := find(p.Codec)
	if err != nil {
		return Params{}, err
	}
	if p.Level != 0 && f.max == 0 {
		return Params{}, fmt.Errorf("%w: %s takes no level", ErrInvalid, f.name)
	}
	if p.Level != 0 && (p.Level < f.min || p.Level > f.max) {
		return Params{}, fmt.Errorf("%w: %s has levels %d to %d, not %d", ErrInvalid, f.name, f.min, f.max, p.Level)
	}
	if p.WinBits != 0 && !f.winbits {
		return Params{}, fmt.Errorf("%w: deflate.winbits is for deflate, not %s", ErrInvalid, f.name)
	}
	if p.WinBits != 0 && (p.WinBits < -15 || p.WinBits > -9) {
		return Params{}, fmt.Errorf("%w: deflate.winbits is -15 to -9, not %d", ErrInvalid, p.WinBits)
	}
	if len(p.Dict) != 0 && !f.dict {
		return Params{}, fmt.Errorf("%w: %s takes no dictionary here; lz4 and zstd do", ErrInvalid, f.name)
	}
	if p.Level == f.standard {
		p.Level = 0
	}
	return p, nil
}

// Probe says whether a codec can be made with p, its dictionary included. It costs
// what a stream of the codec costs, for a moment. The error wraps ErrUnknown,
// ErrTooLong or ErrInvalid.
func (p Params) Probe() error {
	f, err := find(p.Codec)
	if err == nil {
		_, err = f.make(p)
	}
	return err
}

// level gives the level that p asks for, the default if it asks for none.
func (p Params) level() int {
	if f, err := find(p.Codec); err == nil && p.Level == 0 {
		return f.standard
	}
	return p.Level
}

func (p Params) equal(q Params) bool {
	return p.Codec == q.Codec && p.Level == q.Level && p.WinBits == q.WinBits && p.Framed == q.Framed && bytes.Equal(p.Dict, q.Dict)
}

// String gives the text that ParseAlgorithm reads, "lz4" or "lz4(level=3)". It
// leaves out the dictionary, and whether there are frames.
func (p Params) String() string {
	var settings []string
	if p.Level != 0 {
		settings = append(settings, fmt.Sprintf("level=%d", p.Level))
	}
	if p.WinBits != 0 {
		settings = append(settings, fmt.Sprintf("deflate.winbits=%d", p.WinBits))
	}
	if settings == nil {
		return p.Codec
	}
	return p.Codec + "(" + strings.Join(settings, ",") + ")"
}

// bare is behind the text of a format that would be read wrong by who does not
// know it: a program that does not refuses the text.
const bare = " bare"

// Format gives the text that goes with what was compressed: String, and what
// else tells how to read it but for the dictionary.
func (p Params) Format() string {
	if p.Codec == "zstd" && !p.Framed {
		return p.String() + bare
	}
	return p.String()
}

// ParseFormat reads what Format gave, in this program or an older one.
func ParseFormat(text string) (Params, error) {
	text, isBare := strings.CutSuffix(text, bare)
	p, err := ParseAlgorithm(text)
	if err != nil {
		return Params{}, err
	}
	if isBare && p.Codec != "zstd" {
		return Params{}, fmt.Errorf("%w: %s has no format%s", ErrInvalid, p.Codec, bare)
	}
	p.Framed = p.Codec == "zstd" && !isBare
	return p, nil
}
