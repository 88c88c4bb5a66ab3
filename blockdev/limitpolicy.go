package blockdev

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// limitPolicy is what is done for a write that finds no room under the memory
// limit: which rungs of the ladder are climbed, in which order, and how long the
// write may wait for what they free. The zero value does nothing.
type limitPolicy struct {
	rungs [rungCount]rungNumber // 0 ends the list
	wait  time.Duration
}

// rungNumber names a rung; 0 is none.
type rungNumber uint8

const (
	rungCompact    rungNumber = 1 + iota // objects move together, so that pages become free
	rungRecompress                       // cold pages, with a better algorithm
	rungWriteback                        // cold or huge pages go to the backing device
	rungCount      = int(rungWriteback)
)

// String names a rung as limit_policy does.
func (r rungNumber) String() string {
	return [...]string{"none", "compact", "recompress", "writeback"}[r]
}

const (
	// defaultLimitWait is long enough for a rung to free something, and short
	// enough for a program to wait.
	defaultLimitWait = 100 * time.Millisecond
	maxLimitWait     = time.Hour
)

// defaultLimitPolicy climbs every rung; those that are not configured are no
// work. wait 0 is the default, less is none.
func defaultLimitPolicy(wait time.Duration) limitPolicy {
	if wait == 0 {
		wait = defaultLimitWait
	}
	wait = max(0, min(wait, maxLimitWait))
	return limitPolicy{rungs: [...]rungNumber{rungCompact, rungRecompress, rungWriteback}, wait: wait}
}

// String writes a policy as parseLimitPolicy reads it.
func (p limitPolicy) String() string {
	var words []string
	for _, r := range p.rungs {
		if r != 0 {
			words = append(words, r.String())
		}
	}
	if p.wait != 0 {
		words = append(words, "wait="+p.wait.String())
	}
	if words == nil {
		return "none"
	}
	return strings.Join(words, ",")
}

// parseLimitPolicy reads rungs in order and at last, if writes may wait,
// wait=TIME; "none": there is no ladder, a write without room fails at once.
func parseLimitPolicy(text string) (p limitPolicy, err error) {
	if text == "none" {
		return p, nil
	}
	n := 0
	words := strings.Split(text, ",")
	for i, word := range words {
		if time, ok := strings.CutPrefix(word, "wait="); ok && i == len(words)-1 {
			p.wait, err = parseWait(time)
			return p, err
		}
		var rung rungNumber
		for r := rungCompact; r <= rungWriteback; r++ {
			if word == r.String() {
				rung = r
			}
		}
		if rung == 0 || slices.Contains(p.rungs[:], rung) {
			return limitPolicy{}, fmt.Errorf("limit policy %q: %q is unknown, there twice, or after the wait; "+
				"expected some of compact,recompress,writeback and at last wait=TIME, or none: %w", text, word, ErrInvalid)
		}
		p.rungs[n] = rung
		n++
	}
	return p, nil
}

func parseWait(text string) (time.Duration, error) {
	wait, err := time.ParseDuration(text)
	if err != nil || wait < 0 || wait > maxLimitWait {
		return 0, fmt.Errorf("limit policy: wait=%s: need a time such as 100ms, from 0s to %v: %w", text, maxLimitWait, ErrInvalid)
	}
	return wait, nil
}

// limitSettings is the policy's row in the table of settings.
func limitSettings() []setting {
	return []setting{{"limit_policy",
		func(s *settings) string { return s.ladder.String() },
		func(s *settings, value string) (err error) {
			if s.ladder, err = parseLimitPolicy(value); err != nil {
				return fmt.Errorf("%w: %w", ErrUnsupported, err)
			}
			return nil
		}}}
}
