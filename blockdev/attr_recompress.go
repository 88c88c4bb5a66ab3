package blockdev

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/zramfs/zramfs/compress"
)

// recompressAttributes: the other algorithms, and what makes use of them.
func recompressAttributes() []Attribute {
	return []Attribute{
		{
			Dir: DirBlock, Name: "recomp_algorithm", Mode: 0o644,
			Help:  "algorithms for recompress: algo=NAME priority=1..3; reading gives a line for each; before disksize only",
			Show:  showSecondaries,
			Store: storeSecondary,
		},
		{
			Dir: DirBlock, Name: "recompress", Mode: 0o200,
			Help:      "compresses pages again: type=idle|huge|huge_idle, threshold=BYTES, max_pages=N, priority=1..3 or algo=NAME",
			StoreSlow: storeRecompress,
		},
		{
			Dir: DirBlock, Name: "idle", Mode: 0o200,
			Help:      "all marks every page that is compressed as idle; a number those not used for so many seconds, and no others",
			StoreSlow: storeIdle,
		},
		{
			Dir: DirZramfs, Name: "recompress_stat", Mode: 0o444,
			Help: "pages tried, recompressed and given up since disksize, bytes saved, and pages that changed meanwhile",
			Show: func(d *Device, b []byte) ([]byte, error) {
				var c ppCounters
				if k := d.hold(); k != nil {
					defer k.letGo()
					c = k.kept.pp.load()
				}
				return fmt.Appendf(b, "tried %d\nrecompressed %d\nincompressible %d\nsaved %d\nchanged %d\n",
					c.tried, c.recompressed, c.incompressible, c.saved, c.changed), nil
			},
		},
	}
}

// showSecondaries prints a line as comp_algorithm for each priority that has an
// algorithm.
func showSecondaries(d *Device, b []byte) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i, p := range d.next.recomp {
		if p.Codec != "" {
			b = fmt.Appendf(b, "#%d: %s \n", i+1, compress.List(p.Codec))
		}
	}
	return b, nil
}

// pairs reads the kernel's list of key=value. A key that is none of the known is an
// error: a word misspelt would else widen what is done.
func pairs(what, value string, known ...string) (map[string]string, error) {
	m := make(map[string]string)
	for _, pair := range strings.Fields(value) {
		key, value, _ := strings.Cut(pair, "=")
		if value == "" {
			return nil, fmt.Errorf("%s: %q has no value; need %s: %w", what, key, strings.Join(known, "=, ")+"=", ErrInvalid)
		}
		found := false
		for _, k := range known {
			found = found || k == key
		}
		if !found {
			return nil, fmt.Errorf("%s: unknown key %q; there are %s: %w", what, key, strings.Join(known, ", "), ErrInvalid)
		}
		m[key] = value
	}
	return m, nil
}

// numberOf reads the number of a key, or gives what it is without one.
func numberOf(what string, m map[string]string, key string, without int64) (int64, error) {
	text, ok := m[key]
	if !ok {
		return without, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("%s: %s=%s: need a number: %w", what, key, text, ErrInvalid)
	}
	return n, nil
}

func storeSecondary(d *Device, value string) error {
	const what = "recomp_algorithm"
	m, err := pairs(what, value, "algo", "priority")
	if err != nil {
		return err
	}
	prio, err := numberOf(what, m, "priority", 1)
	if err != nil {
		return err
	}
	if prio < 1 || prio > maxPriority {
		return fmt.Errorf("%s: priority %d: need 1 to %d: %w", what, prio, maxPriority, ErrInvalid)
	}
	p, err := compress.ParseAlgorithm(m["algo"])
	if err != nil {
		return codecError(what, err)
	}
	return d.configure(what, func(s *settings) { *s.algorithm(int(prio)), s.dicts[prio] = p, dictionaryFile{} })
}

// storeRecompress reads what to recompress and does it.
func storeRecompress(ctx context.Context, d *Device, value string) error {
	const what = "recompress"
	m, err := pairs(what, value, "type", "threshold", "max_pages", "priority", "algo")
	if err != nil {
		return err
	}
	var o recompressOptions
	switch t, ok := m["type"]; {
	case !ok:
	case t == "idle":
		o.idle = true
	case t == "huge":
		o.huge = true
	case t == "huge_idle":
		o.idle, o.huge = true, true
	default:
		return fmt.Errorf("%s: type=%s: need idle, huge or huge_idle: %w", what, t, ErrInvalid)
	}
	threshold, err := numberOf(what, m, "threshold", 0)
	if err != nil {
		return err
	}
	if o.maxPages, err = numberOf(what, m, "max_pages", 0); err != nil {
		return err
	}
	prio, err := numberOf(what, m, "priority", 0)
	if err != nil {
		return err
	}
	if prio > maxPriority {
		return fmt.Errorf("%s: priority %d: need 1 to %d: %w", what, prio, maxPriority, ErrInvalid)
	}
	k, err := d.disked(what)
	if err != nil {
		return err
	}
	defer k.letGo()
	if threshold >= int64(k.hugeLen) {
		return fmt.Errorf("%s: threshold %d: need less than %d, from which a page is stored as it is: %w", what, threshold, k.hugeLen, ErrInvalid)
	}
	o.threshold, o.priority = int(threshold), uint8(prio)
	if algo := m["algo"]; algo != "" {
		if o.priority, err = k.priorityNamed(algo, max(1, o.priority)); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
	if m["max_pages"] != "" && o.maxPages == 0 {
		o.hi, o.lo = 1, 1 // no page may be tried
	}
	if _, err = k.recompressPass(ctx, o); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// priorityNamed finds a secondary algorithm by its name, from a priority on.
func (k *disk) priorityNamed(algo string, from uint8) (uint8, error) {
	for prio := from; prio <= maxPriority; prio++ {
		if n, ok := k.secondary(prio); ok {
			if p, _ := k.codecs.Params(k.rows[n].codec); p.Codec == algo {
				return prio, nil
			}
		}
	}
	return 0, fmt.Errorf("%s is not among the secondary algorithms; see recomp_algorithm: %w", algo, ErrInvalid)
}
