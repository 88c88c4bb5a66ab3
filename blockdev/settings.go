package blockdev

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/zramfs/zramfs/compress"
	"github.com/zramfs/zramfs/internal/policy"
	"github.com/zramfs/zramfs/stable"
)

// settings are what can be stored before the disk's size, or at any time, and
// what reset puts back. A field goes to the next worker by a row of its own in
// the table below.
type settings struct {
	params      compress.Params                 // priority 0: what a write is compressed with
	recomp      [maxPriority]compress.Params    // priorities 1 to 3, for recompress; no Codec: none
	dicts       [1 + maxPriority]dictionaryFile // by priority; no path: none
	policy      stable.Policy
	scrub       int64 // MiB a second
	writeBehind int   // frames
	limit       int64 // bytes
	backing     backingConfig
	ladder      limitPolicy
	rules       policy.Rules
}

// algorithm gives the parameters of a priority.
func (s *settings) algorithm(prio int) *compress.Params {
	if prio == 0 {
		return &s.params
	}
	return &s.recomp[prio-1]
}

// setting is a row of the table of settings: how one goes into the text that
// the next worker reads, and back.
type setting struct {
	key string // no space in it
	// get gives the value, one line; "" for one that nobody set.
	get func(s *settings) string
	// set takes what get gave. A value out of range is ErrCorrupt, one that this
	// binary does not know ErrUnsupported.
	set func(s *settings, value string) error
}

// settingRows is the table. A family registers its rows here.
func settingRows() []setting {
	return slices.Concat(backingSettings(), codecSettings(), diskSettings(), limitSettings(), integritySettings(), policySettings())
}

func codecSettings() []setting {
	rows := []setting{paramsSetting("algorithm", func(s *settings) *compress.Params { return &s.params })}
	for i := range maxPriority {
		rows = append(rows, paramsSetting(fmt.Sprintf("recomp%d", i+1), func(s *settings) *compress.Params { return &s.recomp[i] }))
	}
	for i := range 1 + maxPriority {
		rows = append(rows, setting{fmt.Sprintf("dict%d", i),
			func(s *settings) string { return s.dicts[i].text() },
			func(s *settings, value string) (err error) { s.dicts[i], err = parseDictionary(value); return err }})
	}
	return rows
}

func paramsSetting(key string, at func(*settings) *compress.Params) setting {
	return setting{key,
		func(s *settings) string {
			if p := at(s); p.Codec != "" {
				return p.String()
			}
			return ""
		},
		func(s *settings, value string) error {
			p, err := compress.ParseAlgorithm(value)
			if err != nil {
				return fmt.Errorf("compression parameters this binary does not know: %w: %w", ErrUnsupported, err)
			}
			*at(s) = p
			return nil
		}}
}

func diskSettings() []setting {
	return []setting{
		{"stable", func(s *settings) string { return s.policy.String() },
			func(s *settings, value string) (err error) {
				if s.policy, err = stable.ParsePolicy(value); err != nil {
					return fmt.Errorf("%w: %w", ErrUnsupported, err)
				}
				return nil
			}},
		numberSetting("write_behind", maxFrames,
			func(s *settings) int64 { return int64(s.writeBehind) }, func(s *settings, n int64) { s.writeBehind = int(n) }),
		numberSetting("mem_limit", 1<<63-1,
			func(s *settings) int64 { return s.limit }, func(s *settings, n int64) { s.limit = n }),
	}
}

// numberSetting is a row for a number from 0 to top, of which 0 is the default.
func numberSetting(key string, top int64, get func(*settings) int64, set func(*settings, int64)) setting {
	return setting{key,
		func(s *settings) string {
			if n := get(s); n != 0 {
				return strconv.FormatInt(n, 10)
			}
			return ""
		},
		func(s *settings, value string) error {
			n, err := strconv.ParseInt(value, 10, 64)
			if err != nil || n < 0 || n > top {
				return fmt.Errorf("%q is no number from 0 to %d: %w", value, top, ErrCorrupt)
			}
			set(s, n)
			return nil
		}}
}

// text is what the next worker reads: "key value" a line.
func (s *settings) text() string {
	var b strings.Builder
	for _, row := range settingRows() {
		if value := row.get(s); value != "" {
			b.WriteString(row.key + " " + value + "\n")
		}
	}
	return b.String()
}

// parseSettings reads what text gave.
func parseSettings(text string) (settings, error) {
	var s settings
	rows := settingRows()
	for line := range strings.Lines(text) {
		key, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		if !ok {
			return settings{}, fmt.Errorf("setting %q has no value: %w", key, ErrCorrupt)
		}
		i := slices.IndexFunc(rows, func(r setting) bool { return r.key == key })
		if i < 0 {
			return settings{}, fmt.Errorf("setting %q, which this binary does not know: %w", key, ErrUnsupported)
		}
		if err := rows[i].set(&s, value); err != nil {
			return settings{}, fmt.Errorf("setting %s: %w", key, err)
		}
	}
	return s, nil
}
