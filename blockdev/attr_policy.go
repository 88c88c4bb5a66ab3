package blockdev

import (
	"fmt"

	"github.com/zramfs/zramfs/internal/policy"
)

// policyAttributes: what is done to pages that nobody touches, and why.
func policyAttributes() []Attribute {
	return []Attribute{
		{
			Dir: DirZramfs, Name: "policy", Mode: 0o644,
			Help: "what is done to pages that nobody touches: off, balanced, memory or latency, with settings that differ, as in memory idle=1m budget=8G",
			Show: func(d *Device, b []byte) ([]byte, error) {
				d.mu.Lock()
				r := d.next.rules
				d.mu.Unlock()
				for _, name := range policy.Presets() {
					if name == r.Preset() {
						name = "[" + r.String() + "]"
					}
					b = fmt.Appendf(b, "%s ", name)
				}
				b[len(b)-1] = '\n'
				return b, nil
			},
			Store: func(d *Device, value string) error {
				r, err := policy.Parse(trim(value))
				if err != nil {
					return fmt.Errorf("%w: %w", ErrInvalid, err)
				}
				return d.Govern(r)
			},
		},
		{
			Dir: DirZramfs, Name: "policy_stat", Mode: 0o444,
			Help: "decisions of the policy since disksize: runs, pages tried and done, bytes freed for each action; steps in which it was held, and why; pages that came back",
			Show: func(d *Device, b []byte) ([]byte, error) {
				return d.askPolicy(b, (*policy.Engine).AppendStat)
			},
		},
		{
			Dir: DirZramfs, Name: "policy_explain", Mode: 0o444,
			Help: "what the policy does now, why, and what it decided lately, in words",
			Show: func(d *Device, b []byte) ([]byte, error) {
				return d.askPolicy(b, (*policy.Engine).AppendExplain)
			},
		},
	}
}

// askPolicy has the disk's engine append what it knows.
func (d *Device) askPolicy(b []byte, ask func(*policy.Engine, []byte, int64) []byte) ([]byte, error) {
	k := d.hold()
	if k == nil {
		return b, nil
	}
	defer k.letGo()
	k.governor.mu.Lock()
	defer k.governor.mu.Unlock()
	return ask(k.governor.engine, b, k.policyClock()), nil
}

// policySettings is the row by which the next worker knows the policy.
func policySettings() []setting {
	return []setting{{"policy",
		func(s *settings) string {
			if !s.rules.Active() {
				return ""
			}
			return s.rules.String()
		},
		func(s *settings, value string) (err error) {
			if s.rules, err = policy.Parse(value); err != nil {
				return fmt.Errorf("%w: %w", ErrUnsupported, err)
			}
			return nil
		}}}
}
