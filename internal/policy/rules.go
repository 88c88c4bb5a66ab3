package policy

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	units "github.com/docker/go-units"

	"github.com/zramfs/zramfs/internal/nearest"
)

// ErrRule is in every error about a text that is no policy.
var ErrRule = errors.New("no such policy")

// Off is the preset that does nothing.
const Off = "off"

// Rules are one policy: a preset, and what differs from it. A plain value; the
// zero Rules is off.
type Rules struct {
	preset string // "" is Off

	// Ages without a read or write; 0: never.
	Idle           time.Duration // from which a page is marked idle
	Recompress     time.Duration // from which it gets the stronger codec
	Writeback      time.Duration // from which it goes to the backing device
	Incompressible time.Duration // the same for a page that no codec helps

	Algorithm string // the stronger codec of a device that has no recomp_algorithm
	Budget    int64  // bytes that may be written back in any 24 hours
	Rate      int64  // bytes of pages that may be worked on in a second

	CPU      int // percent of the time; busier, it rests
	Pressure int // percent of the time that programs wait for memory; above, memory is short
	Fill     int // percent of the limit; fuller, memory is short
	Returns  int // percent of what was worked on that may come back; above, it backs off
}

// presets are the policies that have a name, off first.
func presets() []Rules {
	all := Rules{Algorithm: "zstd", Rate: 8 << 20, CPU: 50, Pressure: 10, Fill: 85, Returns: 25}
	off, balanced, memory, latency := all, all, all, all
	off.preset = Off

	balanced.preset = "balanced"
	balanced.Idle, balanced.Recompress = 15*time.Minute, time.Hour
	balanced.Incompressible, balanced.Writeback = time.Hour, 6*time.Hour
	balanced.Budget = 4 << 30

	memory.preset = "memory"
	memory.Idle, memory.Recompress = 2*time.Minute, 5*time.Minute
	memory.Incompressible, memory.Writeback = 10*time.Minute, time.Hour
	memory.Budget, memory.Rate, memory.CPU = 16<<30, 32<<20, 75
	memory.Algorithm = "brotli" // a tenth of zstd's speed, and an eighth less than it stores

	latency.preset = "latency"
	latency.Idle, latency.Recompress = time.Hour, 6*time.Hour
	latency.Incompressible = 6 * time.Hour
	latency.Budget, latency.CPU, latency.Returns = 1<<30, 20, 5
	return []Rules{off, balanced, memory, latency}
}

// Presets names the presets.
func Presets() (names []string) {
	for _, p := range presets() {
		names = append(names, p.preset)
	}
	return names
}

// Preset says which preset the rules are, or differ from.
func (r Rules) Preset() string {
	if r.preset == "" {
		return Off
	}
	return r.preset
}

// Active says whether there is anything to do.
func (r Rules) Active() bool { return r.Preset() != Off }

// rule is one setting of a policy.
type rule struct {
	name string
	help string
	get  func(Rules) string
	set  func(*Rules, string) error
}

// rules is the table of settings, in the order in which they are shown.
func rules() []rule {
	age := func(name, help string, at func(*Rules) *time.Duration) rule {
		return rule{name, help,
			func(r Rules) string { return formatAge(*at(&r)) },
			func(r *Rules, s string) (err error) { *at(r), err = parseAge(s); return err }}
	}
	size := func(name, help string, at func(*Rules) *int64) rule {
		return rule{name, help,
			func(r Rules) string { return formatSize(*at(&r)) },
			func(r *Rules, s string) (err error) { *at(r), err = parseSize(s); return err }}
	}
	percent := func(name, help string, at func(*Rules) *int) rule {
		return rule{name, help,
			func(r Rules) string { return strconv.Itoa(*at(&r)) },
			func(r *Rules, s string) (err error) { *at(r), err = parsePercent(s); return err }}
	}
	return []rule{
		age("idle", "age from which a page is marked idle", func(r *Rules) *time.Duration { return &r.Idle }),
		age("recompress", "age from which a page gets the stronger codec", func(r *Rules) *time.Duration { return &r.Recompress }),
		age("incompressible", "age from which a page that no codec helps is written back",
			func(r *Rules) *time.Duration { return &r.Incompressible }),
		age("writeback", "age from which any page is written back", func(r *Rules) *time.Duration { return &r.Writeback }),
		{"algorithm", "the stronger codec, if recomp_algorithm names none",
			func(r Rules) string { return r.Algorithm }, setAlgorithm},
		size("budget", "bytes that may be written back in any 24 hours", func(r *Rules) *int64 { return &r.Budget }),
		size("rate", "bytes of pages that may be worked on in a second", func(r *Rules) *int64 { return &r.Rate }),
		percent("cpu", "percent of the time that the CPUs are busy; above, nothing is done unless memory is short",
			func(r *Rules) *int { return &r.CPU }),
		percent("pressure", "percent of the time that programs wait for memory; above, memory is short",
			func(r *Rules) *int { return &r.Pressure }),
		percent("fill", "percent of mem_limit that is used; above, memory is short", func(r *Rules) *int { return &r.Fill }),
		percent("returns", "percent of what was worked on that may come back before ages are doubled",
			func(r *Rules) *int { return &r.Returns }),
	}
}

// Names lists the settings.
func Names() (names []string) {
	for _, r := range rules() {
		names = append(names, r.name)
	}
	return names
}

// Each tells every setting with its value and what it is for.
func (r Rules) Each(tell func(name, value, help string)) {
	for _, row := range rules() {
		tell(row.name, row.get(r), row.help)
	}
}

// Named gives a preset.
func Named(name string) (Rules, error) {
	for _, p := range presets() {
		if p.preset == name {
			return p, nil
		}
	}
	return Rules{}, fmt.Errorf("policy %q: expected one of %s: %w", name, strings.Join(Presets(), ", "), ErrRule)
}

// Set changes one setting.
func (r *Rules) Set(name, value string) error {
	all := rules()
	i := slices.IndexFunc(all, func(row rule) bool { return row.name == name })
	if i < 0 {
		return fmt.Errorf("policy setting %q: the nearest are %s: %w", name, strings.Join(nearest.Of(name, Names(), 3), ", "), ErrRule)
	}
	if err := all[i].set(r, value); err != nil {
		return fmt.Errorf("policy setting %s=%s: %w", name, value, err)
	}
	return nil
}

// Check looks for settings that do not fit together.
func (r Rules) Check() error {
	if r.Recompress != 0 && r.Writeback != 0 && r.Writeback < r.Recompress {
		return fmt.Errorf("policy setting writeback=%s is below recompress=%s: pages would be written back before they are recompressed; "+
			"expected it above, or recompress=never: %w", formatAge(r.Writeback), formatAge(r.Recompress), ErrRule)
	}
	return nil
}

// Parse reads what String writes: a preset, then settings that differ from it,
// such as "memory idle=1m budget=8G".
func Parse(text string) (Rules, error) {
	words := strings.Fields(text)
	if len(words) == 0 {
		return Rules{}, fmt.Errorf("policy is empty: expected one of %s: %w", strings.Join(Presets(), ", "), ErrRule)
	}
	r, err := Named(words[0])
	if err != nil {
		return Rules{}, err
	}
	for _, w := range words[1:] {
		name, value, ok := strings.Cut(w, "=")
		if !ok {
			return Rules{}, fmt.Errorf("policy setting %q: expected NAME=VALUE: %w", w, ErrRule)
		}
		if err := r.Set(name, value); err != nil {
			return Rules{}, err
		}
	}
	return r, r.Check()
}

// String is the preset and what differs from it, in one line.
func (r Rules) String() string {
	base, err := Named(r.Preset())
	if err != nil || !r.Active() {
		return Off
	}
	text := base.preset
	for _, row := range rules() {
		if v := row.get(r); v != row.get(base) {
			text += " " + row.name + "=" + v
		}
	}
	return text
}

const never = "never"

func parseAge(s string) (time.Duration, error) {
	if s == never || s == "0" {
		return 0, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < leastAge*time.Second || d > mostAge*time.Second {
		return 0, fmt.Errorf("expected an age from %s to %s, such as 90s, 10m or 2h, or %s: %w",
			formatAge(leastAge*time.Second), formatAge(mostAge*time.Second), never, ErrRule)
	}
	return d.Truncate(time.Second), nil
}

// formatAge writes an age without the zeroes of time.Duration.
func formatAge(d time.Duration) string {
	if d == 0 {
		return never
	}
	s := d.Truncate(time.Second).String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

func parseSize(s string) (int64, error) {
	n, err := units.RAMInBytes(s)
	if err != nil || n < 0 || n > mostBytes || n != 0 && n < PageSize {
		return 0, fmt.Errorf("expected 0, or bytes with K, M, G or T, from 4K to %s: %w", formatSize(mostBytes), ErrRule)
	}
	return n, nil
}

func formatSize(n int64) string {
	suffix := ""
	for _, s := range []string{"K", "M", "G", "T"} {
		if n == 0 || n%1024 != 0 {
			break
		}
		n, suffix = n/1024, s
	}
	return strconv.FormatInt(n, 10) + suffix
}

func parsePercent(s string) (int, error) {
	n, err := strconv.Atoi(strings.TrimSuffix(s, "%"))
	if err != nil || n < 0 || n > 100 {
		return 0, fmt.Errorf("expected percent, 0 to 100: %w", ErrRule)
	}
	return n, nil
}

// setAlgorithm takes any word: which codecs there are, the device knows.
func setAlgorithm(r *Rules, s string) error {
	if s == "" || len(s) > 64 || strings.ContainsFunc(s, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return fmt.Errorf("expected the name of a codec, such as zstd or zstd(level=9): %w", ErrRule)
	}
	r.Algorithm = s
	return nil
}
