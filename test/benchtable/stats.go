package main

import (
	"fmt"
	"slices"
)

// spread is the median of some values and how far they reach.
type spread struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

// spreadOf at least one value.
func spreadOf(values []float64) spread {
	v := slices.Sorted(slices.Values(values))
	n := len(v)
	s := spread{Median: v[n/2], Min: v[0], Max: v[n-1]}
	if n%2 == 0 {
		s.Median = (v[n/2-1] + v[n/2]) / 2
	}
	return s
}

// rounds are the values of one candidate by number of the round.
type rounds map[int]float64

func (r rounds) spread() (spread, bool) {
	if len(r) == 0 {
		return spread{}, false
	}
	var v []float64
	for _, x := range r {
		v = append(v, x)
	}
	return spreadOf(v), true
}

// over gives the ratios to another candidate, each within one round: what changed
// from round to round on the machine changed both. Rounds that one of them lacks do
// not count.
func (r rounds) over(other rounds) (spread, bool) {
	ratios := rounds{}
	for n, x := range r {
		if y, ok := other[n]; ok && y != 0 {
			ratios[n] = x / y
		}
	}
	return ratios.spread()
}

// better says which values are good ones.
type better string

const (
	higher better = "higher"
	lower  better = "lower"
)

// verdict says in a word how a ratio stands to 1: even, unless every round says the same.
func (m metric) verdict(s spread) string {
	good, bad := "faster", "slower"
	if m.Name == metricCPU || m.Unit == "MiB" {
		good, bad = "less", "more"
	}
	switch {
	case s.Min > 1 && m.Better == higher, s.Max < 1 && m.Better == lower:
		return good
	case s.Max < 1 && m.Better == higher, s.Min > 1 && m.Better == lower:
		return bad
	}
	return "even"
}

// human keeps three digits or so.
func human(v float64) string {
	switch {
	case v >= 9999.5:
		return fmt.Sprintf("%.0fk", v/1000)
	case v >= 100 || v == float64(int(v)):
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}
