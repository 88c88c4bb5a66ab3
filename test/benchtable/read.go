package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/zramfs/zramfs/test/benchrun/record"
)

// metric is what a row shows.
type metric struct {
	Name   string `json:"metric"`
	Unit   string `json:"unit"`
	Better better `json:"better"`
}

// row is one metric of one thing that was measured, of all candidates.
type row struct {
	set, what string
	metric
	values map[string]rounds // by candidate
}

// results are everything that was measured, in the order in which it is shown.
type results struct {
	facts json.RawMessage
	rows  []*row
}

// origin is what a file of the raw directory is of: SET.WHAT.CANDIDATE.ROUND.json.
type origin struct {
	set, what, candidate string
	round                int
}

func parseRun(file string) (origin, error) {
	f := strings.Split(strings.TrimSuffix(filepath.Base(file), ".json"), ".")
	if len(f) != 4 {
		return origin{}, fmt.Errorf("%s: expected SET.WHAT.CANDIDATE.ROUND.json", file)
	}
	n, err := strconv.Atoi(f[3])
	return origin{f[0], f[1], f[2], n}, err
}

// readers take what the sets measured.
func readers() map[string]func(*results, origin, *record.Run) error {
	return map[string]func(*results, origin, *record.Run) error{
		"fio":     (*results).fio,
		"swap":    (*results).swap,
		"latency": (*results).latency,
		"load":    (*results).load,
		"memory":  (*results).memory,
		"scaling": (*results).scaling,
		"crash":   (*results).scaling,
	}
}

// setOrder is how the sets are shown.
func setOrder() []string {
	return []string{"fio", "swap", "latency", "load", "memory", "scaling", "crash"}
}

// read collects the files of a directory.
func read(dir string) (*results, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.*.*.*.json"))
	if err != nil {
		return nil, err
	}
	r := &results{}
	if r.facts, err = os.ReadFile(filepath.Join(dir, "facts.json")); err != nil {
		return nil, err
	}
	known := readers()
	for _, file := range files {
		about, err := parseRun(file)
		if err != nil {
			return nil, err
		}
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		var rec record.Run
		take := known[about.set]
		if take == nil {
			err = errors.New("no such set")
		} else if err = json.Unmarshal(text, &rec); err == nil {
			err = take(r, about, &rec)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
	}
	slices.SortStableFunc(r.rows, func(a, b *row) int {
		return cmp.Or(cmp.Compare(slices.Index(setOrder(), a.set), slices.Index(setOrder(), b.set)), compareNatural(a.what, b.what))
	})
	return r, nil
}

// add notes a value. Metrics of a thing keep the order in which they came.
func (r *results) add(about origin, m metric, value float64) {
	i := slices.IndexFunc(r.rows, func(o *row) bool { return o.set == about.set && o.what == about.what && o.Name == m.Name })
	if i < 0 {
		i = len(r.rows)
		r.rows = append(r.rows, &row{set: about.set, what: about.what, metric: m, values: map[string]rounds{}})
	}
	v := r.rows[i].values
	if v[about.candidate] == nil {
		v[about.candidate] = rounds{}
	}
	v[about.candidate][about.round] = value
}

// compareNatural sorts numbers within names by their value, with K, M, G and T
// after them: 2 before 16, 4k before 1m.
func compareNatural(a, b string) int {
	for a != "" && b != "" {
		x, restA, okA := leadingNumber(a)
		y, restB, okB := leadingNumber(b)
		if okA && okB {
			if x != y {
				return cmp.Compare(x, y)
			}
			a, b = restA, restB
			continue
		}
		if a[0] != b[0] {
			return cmp.Compare(a[0], b[0])
		}
		a, b = a[1:], b[1:]
	}
	return cmp.Compare(len(a), len(b))
}

func leadingNumber(s string) (n float64, rest string, ok bool) {
	end := 0
	for end < len(s) && s[end] >= '0' && s[end] <= '9' {
		end++
	}
	if end == 0 {
		return 0, s, false
	}
	n, _ = strconv.ParseFloat(s[:end], 64) // digits
	rest = s[end:]
	if rest != "" {
		if e := strings.IndexByte("kmgt", rest[0]|0x20); e >= 0 {
			n, rest = n*float64(int64(1)<<(10*(e+1))), rest[1:]
		}
	}
	return n, rest, true
}
