package compress

import (
	"fmt"
	"strconv"
	"strings"
)

// ParseAlgorithm reads what is written to comp_algorithm or given on a command
// line: a name, or a name with settings in parentheses: "lz4", "lz4(level=3)",
// "deflate(level=9,deflate.winbits=-12)". White space around it does not matter.
// The error wraps ErrUnknown, ErrTooLong or ErrInvalid.
func ParseAlgorithm(text string) (Params, error) {
	text = strings.TrimSpace(text)
	name, rest, found := strings.Cut(text, "(")
	p := Params{Codec: strings.TrimSpace(name)}
	if _, err := find(p.Codec); err != nil {
		return Params{}, err
	}
	if found {
		inside, ok := strings.CutSuffix(rest, ")")
		if !ok {
			return Params{}, fmt.Errorf("%w: %q lacks the closing parenthesis", ErrInvalid, text)
		}
		t, err := ParseParams(strings.ReplaceAll(inside, ",", " "))
		if err != nil {
			return Params{}, err
		}
		if t.Algo != "" || t.Priority != 0 || t.DictPath != "" {
			return Params{}, fmt.Errorf("%w: in parentheses only level and deflate.winbits are known", ErrInvalid)
		}
		p.Level, p.WinBits = t.Level, t.WinBits
	}
	return p.normal()
}

// A Tuning is what was written to algorithm_params or recomp_algorithm. Which
// of the device's codecs it is for, Priority or Algo says.
type Tuning struct {
	Algo     string // "": not given
	Priority int    // 0 the primary codec or not given, 1 to 3 the secondary ones
	Level    int    // 0: the default
	WinBits  int    // 0: the default
	DictPath string // a file whose bytes are for Params.Dict; "": none
}

// ParseParams reads "key=value" pairs separated by white space. The keys are
// priority, algo, level, dict and deflate.winbits. The error wraps ErrInvalid
// for an unknown or repeated key, a key without a value, a value that is no
// number or a priority outside 0..3; ErrUnknown or ErrTooLong for algo. Whether
// the values fit a codec is found out by Params.
func ParseParams(line string) (Tuning, error) {
	var t Tuning
	seen := make(map[string]bool)
	for _, pair := range strings.Fields(line) {
		key, value, _ := strings.Cut(pair, "=")
		if value == "" {
			return Tuning{}, fmt.Errorf("%w: %q has no value", ErrInvalid, key)
		}
		if seen[key] {
			return Tuning{}, fmt.Errorf("%w: %q is given twice", ErrInvalid, key)
		}
		seen[key] = true
		var err error
		switch key {
		case "algo":
			t.Algo = value
			_, err = find(value)
		case "priority":
			if t.Priority, err = number(key, value); err == nil && (t.Priority < 0 || t.Priority > 3) {
				err = fmt.Errorf("%w: priority is 0 to 3, not %d", ErrInvalid, t.Priority)
			}
		case "level":
			if t.Level, err = number(key, value); err == nil && t.Level == 0 {
				err = fmt.Errorf("%w: level 0; leave the level out for the default", ErrInvalid)
			}
		case "deflate.winbits":
			if t.WinBits, err = number(key, value); err == nil && t.WinBits == 0 {
				err = fmt.Errorf("%w: deflate.winbits 0; leave it out for the default", ErrInvalid)
			}
		case "dict":
			t.DictPath = value
		default:
			err = fmt.Errorf("%w: unknown key %q; there are priority, algo, level, dict, deflate.winbits",
				ErrInvalid, key)
		}
		if err != nil {
			return Tuning{}, err
		}
	}
	return t, nil
}

// Params gives the settings for the codec of that name, with the bytes of the
// dictionary that DictPath names. The error wraps ErrUnknown, ErrTooLong or
// ErrInvalid.
func (t Tuning) Params(codec string, dict []byte) (Params, error) {
	return Params{Codec: codec, Level: t.Level, WinBits: t.WinBits, Dict: dict}.normal()
}

func number(key, value string) (int, error) {
	n, err := strconv.Atoi(value)
	if err != nil {
		return 0, fmt.Errorf("%w: %s is a number, not %q", ErrInvalid, key, value)
	}
	return n, nil
}
