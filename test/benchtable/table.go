package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

func (s *set) has(candidate string) bool {
	return slices.ContainsFunc(s.rows, func(r *row) bool { return len(r.values[candidate]) > 0 })
}

// candidates lists those that were measured.
func (s *set) candidates() []string {
	return slices.DeleteFunc(slices.Clone(order), func(name string) bool { return !s.has(name) })
}

// median of at least one value.
func median(values []float64) float64 {
	v := slices.Sorted(slices.Values(values))
	if n := len(v); n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return v[len(v)/2]
}

// ratio of the candidate's median to another's; false where there is none.
func (r *row) ratio(candidate, reference string) (float64, bool) {
	of, to := r.values[candidate], r.values[reference]
	if len(of) == 0 || len(to) == 0 || median(to) == 0 {
		return 0, false
	}
	return median(of) / median(to), true
}

func (s *set) absolutes() string {
	return s.table(func(r *row, candidate string) string {
		if len(r.values[candidate]) == 0 {
			return "-"
		}
		return human(median(r.values[candidate]))
	})
}

func (s *set) ratios(reference string) string {
	return s.table(func(r *row, candidate string) string {
		v, ok := r.ratio(candidate, reference)
		if !ok {
			return "-"
		}
		return fmt.Sprintf("%.2f", v)
	})
}

// human keeps three digits or so.
func human(v float64) string {
	switch {
	case v >= 10000:
		return fmt.Sprintf("%.0fk", v/1000)
	case v >= 100 || v == float64(int(v)):
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

func (s *set) table(cell func(*row, string) string) string {
	var b strings.Builder
	names := s.candidates()
	fmt.Fprintf(&b, "%-32s %-8s", "", "")
	for _, name := range names {
		fmt.Fprintf(&b, " %12s", name)
	}
	b.WriteByte('\n')
	for _, r := range s.rows {
		var line strings.Builder
		some := false
		for _, name := range names {
			c := cell(r, name)
			some = some || c != "-"
			fmt.Fprintf(&line, " %12s", c)
		}
		if some {
			fmt.Fprintf(&b, "%-32s %-8s%s\n", r.name, r.unit, line.String())
		}
	}
	return b.String()
}

// figure is one row and candidate as JSON has it.
type figure struct {
	Median float64   `json:"median"`
	Ratio  *float64  `json:"ratio_to_zram,omitempty"`
	Rounds []float64 `json:"rounds"`
}

type exported struct {
	Machine json.RawMessage `json:"machine"`
	Results []exportedRow   `json:"results"`
}

type exportedRow struct {
	Name       string            `json:"name"`
	Unit       string            `json:"unit"`
	Candidates map[string]figure `json:"candidates"`
}

func (s *set) export() exported {
	e := exported{Machine: s.facts}
	for _, r := range s.rows {
		x := exportedRow{Name: r.name, Unit: r.unit, Candidates: map[string]figure{}}
		for name, rounds := range r.values {
			f := figure{Median: median(rounds), Rounds: rounds}
			if v, ok := r.ratio(name, zram); ok {
				f.Ratio = &v
			}
			x.Candidates[name] = f
		}
		e.Results = append(e.Results, x)
	}
	return e
}
