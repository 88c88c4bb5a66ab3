package main

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// result is a cell and what came of it.
type result struct {
	Cell    cell    `json:"cell"`
	Outcome outcome `json:"outcome"`

	before bool   // passed in an earlier run
	said   []line // all that the guest said
}

// lastWords is how many lines of a guest that failed are shown: the minute
// before, and what the OOM killer says.
const lastWords = 150

// explain shows the end of what the guest said.
func (r result) explain(w io.Writer) {
	for _, l := range r.said[max(0, len(r.said)-lastWords):] {
		fmt.Fprintf(w, "  | %.200s\n", l.String())
	}
}

func fingerprint(paths ...string) (string, error) {
	h := sha256.New()
	for _, p := range paths {
		f, err := os.Open(p)
		if err == nil {
			_, err = io.Copy(h, f)
			f.Close()
		}
		if err != nil {
			return "", fmt.Errorf("results: %w", err)
		}
	}
	return fmt.Sprintf("%x", h.Sum(nil)[:6]), nil
}

// load reads the result of an earlier run of this cell.
func (b *bench) load(c cell) (result, bool) {
	text, err := os.ReadFile(filepath.Join(b.results, c.key()+".json"))
	if err != nil {
		return result{}, false
	}
	var r result
	return r, json.Unmarshal(text, &r) == nil
}

// save writes the result, and all that the guest said beside it. The result
// comes last, and whole: a run that is interrupted is run again.
func (b *bench) save(r result, lines []line) error {
	base := filepath.Join(b.results, r.Cell.key())
	var log strings.Builder
	for _, l := range lines {
		fmt.Fprintln(&log, l)
	}
	text, err := json.MarshalIndent(r, "", "  ")
	if err == nil {
		err = os.WriteFile(base+".log", []byte(log.String()), 0o644)
	}
	if err == nil {
		err = os.WriteFile(base+".tmp", text, 0o644)
	}
	if err == nil {
		err = os.Rename(base+".tmp", base+".json")
	}
	if err != nil {
		return fmt.Errorf("results: %w", err)
	}
	return nil
}

// settingsOf is what vm.* was in a guest of this size with zramfs.
func (b *bench) settingsOf(c cell) map[string]string {
	c.Scenario, c.Set = "eater", nil
	r, _ := b.load(c)
	return r.Outcome.VM
}

const rowForm = "%-12s %-5s %5s %4s %3s %2s %-5s %6s %6s %8s %6s %6s %6s  %s"

func heading() string {
	return fmt.Sprintf(rowForm, "scenario", "linux", "MiB", "CPUs", "lru", "cg", "", "s", "held", "looked", "beat", "pulse",
		"eater", "ends, kills by the OOM killer, what was wrong")
}

// row is the cell's line of the table. Gaps are in seconds.
func (r result) row() string {
	c, o := r.Cell, r.Outcome
	verdict := "ok"
	switch {
	case !o.Passed:
		verdict = "FAIL"
	case r.before:
		verdict = "was ok"
	}
	notes := strings.Join(counted(o.Ends), ", ")
	if len(o.Killed) > 0 {
		notes += "; OOM: " + strings.Join(counted(o.Killed), ", ")
	}
	if c.Without != "" {
		notes = "without " + c.Without + "; " + notes
	}
	if len(o.Why) > 0 {
		notes += "; " + strings.Join(o.Why, "; ")
	}
	return fmt.Sprintf(rowForm, c.Scenario, c.Kernel, fmt.Sprint(c.Memory), fmt.Sprint(c.CPUs), fmt.Sprint(c.MGLRU),
		fmt.Sprint(c.Cgroup), verdict, fmt.Sprintf("%.0f", o.Seconds), fmt.Sprint(o.HeldMiB), fmt.Sprint(o.Touches),
		fmt.Sprintf("%.1f", o.BeatGap), fmt.Sprintf("%.1f", o.PulseGap), fmt.Sprintf("%.1f", o.EaterGap), notes)
}

// counted turns a, a, b into 2 a, b.
func counted(words []string) []string {
	n := map[string]int{}
	var once []string
	for _, w := range words {
		if n[w]++; n[w] == 1 {
			once = append(once, w)
		}
	}
	for i, w := range once {
		if n[w] > 1 {
			once[i] = fmt.Sprintf("%d %s", n[w], w)
		}
	}
	return once
}

// summary says how many of each scenario passed, what zramfs held of what
// kernel zram did, and where the rest of the memory was.
func summary(all []result) string {
	var b strings.Builder
	type group struct{ passed, runs int }
	groups := map[string]*group{}
	var order []string
	for _, r := range all {
		key := r.Cell.Scenario
		if r.Cell.Without != "" {
			key += " without " + r.Cell.Without
		}
		if groups[key] == nil {
			groups[key] = new(group)
			order = append(order, key)
		}
		groups[key].runs++
		if r.Outcome.Passed {
			groups[key].passed++
		}
	}
	fmt.Fprintln(&b)
	for _, key := range order {
		fmt.Fprintf(&b, "%-40s %d of %d\n", key, groups[key].passed, groups[key].runs)
	}
	return b.String() + capacity(all)
}

// capacity compares most held until the OOM kill, size by size.
func capacity(all []result) string {
	type pair struct{ ours, zram, n, m int64 }
	sizes := map[string]*pair{}
	memory := map[string]map[string]int64{}
	for _, r := range all {
		key := fmt.Sprintf("%4d MiB", r.Cell.Memory)
		if sizes[key] == nil {
			sizes[key] = new(pair)
		}
		switch p := sizes[key]; {
		case r.Cell.Scenario == "eater" && r.Cell.Without == "":
			p.ours, p.n = p.ours+r.Outcome.HeldMiB, p.n+1
			memory[key] = r.Outcome.Memory
		case r.Cell.Scenario == "zram":
			p.zram, p.m = p.zram+r.Outcome.HeldMiB, p.m+1
		}
	}
	var b strings.Builder
	for _, key := range sortedKeys(sizes) {
		p := sizes[key]
		if p.n == 0 {
			continue
		}
		fmt.Fprintf(&b, "\ncapacity, %s: %d MiB", key, p.ours/p.n)
		if p.m > 0 {
			fmt.Fprintf(&b, ", kernel zram %d: %.2f", p.zram/p.m, float64(p.ours)/float64(p.n)/(float64(p.zram)/float64(p.m)))
		}
		m := memory[key]
		fmt.Fprintf(&b, "; of %d KiB free zramfs took %d before any load:", m["bare_free"], m["taken"])
		for _, k := range sortedKeys(m) {
			if k != "bare_free" && k != "taken" && k != "total" {
				fmt.Fprintf(&b, " %s %d", k, m[k])
			}
		}
	}
	if b.Len() > 0 {
		b.WriteByte('\n')
	}
	return b.String()
}
