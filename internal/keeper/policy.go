package keeper

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/BurntSushi/toml"

	"github.com/zramfs/zramfs/compress"
	"github.com/zramfs/zramfs/internal/host"
	"github.com/zramfs/zramfs/internal/policy"
)

// PolicyPresets lists the policies that have a name.
func PolicyPresets() []string { return policy.Presets() }

// PolicySettings lists what a policy file can say, a line each.
func PolicySettings() string {
	var b strings.Builder
	r, err := policy.Named("balanced")
	if err != nil {
		panic(err) // there is one
	}
	r.Each(func(name, _, help string) { fmt.Fprintf(&b, "    %-15s %s\n", name, help) })
	return b.String()
}

// ParsePolicy reads what a user calls a policy, a preset or the path of a file,
// and gives the text that a device takes. A file that has the name of a preset
// is given as ./off.
func ParsePolicy(text string) (string, error) {
	if text == "" {
		return "", nil
	}
	r, err := policy.Named(text)
	if err != nil {
		if r, err = readPolicy(text); err != nil {
			return "", err
		}
	}
	if _, err := compress.ParseAlgorithm(r.Algorithm); err != nil {
		return "", &Error{CodeUsage, "policy " + text, err}
	}
	return r.String(), nil
}

// readPolicy reads a file of NAME = VALUE lines in TOML: preset, and what is to
// differ from it.
func readPolicy(path string) (policy.Rules, error) {
	none := policy.Rules{}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return none, Errorf(CodeUsage, "policy %q is neither one of %s nor a file that is there", path, strings.Join(policy.Presets(), ", "))
	}
	if err != nil {
		return none, &Error{ExitCode(err), "policy file", err}
	}
	var file map[string]any
	if err := toml.Unmarshal(data, &file); err != nil {
		return none, &Error{CodeUsage, "policy file " + path + " is no TOML", err}
	}
	preset, ok := file["preset"].(string)
	if !ok {
		return none, Errorf(CodeUsage, "policy file %s does not name what it differs from: expected a line preset = \"memory\", or another of %s",
			path, strings.Join(policy.Presets(), ", "))
	}
	delete(file, "preset")
	r, err := policy.Named(preset)
	for _, name := range sorted(file) {
		switch v := file[name].(type) {
		case string:
			err = errors.Join(err, r.Set(name, v))
		case int64:
			err = errors.Join(err, r.Set(name, strconv.FormatInt(v, 10)))
		default:
			err = errors.Join(err, fmt.Errorf("policy setting %s = %v: expected a number or a text in quotes: %w", name, v, policy.ErrRule))
		}
	}
	if err = errors.Join(err, r.Check()); err != nil {
		return none, &Error{CodeUsage, "policy file " + path, err}
	}
	return r, nil
}

func sorted(m map[string]any) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// SetPolicy gives a device of a mount another policy, as ParsePolicy reads it.
func SetPolicy(path, text string, id int) error {
	rules, err := ParsePolicy(text)
	if err != nil {
		return err
	}
	return Set(path, "zramfs/policy", rules, id)
}

// PolicyState is what the policy of a device is and does.
type PolicyState struct {
	Policy   string            `json:"policy"` // a preset, and what differs
	Settings map[string]string `json:"settings"`
	Stat     map[string]int64  `json:"stat"`
	Explain  []string          `json:"explain"` // lines for people

	rules policy.Rules
}

// ReadPolicy looks at the policy of a device of a mount.
func ReadPolicy(path string, id int) (*PolicyState, error) {
	names, err := Get(path, "zramfs/policy", id)
	if err != nil {
		return nil, err
	}
	_, current, _ := strings.Cut(names, "[")
	current, _, _ = strings.Cut(current, "]")
	p := &PolicyState{Policy: current, Settings: map[string]string{}, Stat: map[string]int64{}}
	if p.rules, err = policy.Parse(current); err != nil {
		return nil, fmt.Errorf("policy %q of another version of zramfs: %w", current, err)
	}
	p.rules.Each(func(name, value, _ string) { p.Settings[name] = value })
	stat, err := Get(path, "zramfs/policy_stat", id)
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(stat) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if p.Stat[name], err = strconv.ParseInt(value, 10, 64); err != nil {
			return nil, fmt.Errorf("policy_stat: %w", err)
		}
	}
	explain, err := Get(path, "zramfs/policy_explain", id)
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(explain) {
		p.Explain = append(p.Explain, strings.TrimRight(line, "\n"))
	}
	return p, nil
}

// Text tells the policy and its settings, or why it does what it does.
func (p *PolicyState) Text(explain bool) string {
	if explain {
		return strings.Join(p.Explain, "\n") + "\n"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n", p.Policy)
	if p.rules.Active() {
		p.rules.Each(func(name, value, help string) { fmt.Fprintf(&b, "  %-15s %-8s %s\n", name, value, help) })
	}
	return b.String()
}

// machineLoad gives the policies of a worker their view of the machine. The
// files are opened when the first of them asks.
func machineLoad() func() policy.Machine {
	open := sync.OnceValue(host.OpenLoadMeter)
	return func() policy.Machine {
		l := open().Read()
		return policy.Machine{Busy: l.Busy, Pressure: l.Pressure, Free: l.Free}
	}
}

// rules reads the policy of a configuration; "" is off.
func (c *Config) rules() (policy.Rules, error) {
	if c.Policy == "" {
		return policy.Rules{}, nil
	}
	r, err := policy.Parse(c.Policy)
	if err != nil {
		return r, &Error{CodeUsage, "policy", err}
	}
	return r, nil
}
