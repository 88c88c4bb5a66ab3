package main

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// tables is everything, for a terminal.
func (r *results) tables() string {
	var b strings.Builder
	show := func(title string, t table) {
		if len(t.rows) > 0 {
			fmt.Fprintf(&b, "\n%s\n%s", title, t)
		}
	}
	const how = "median and spread of the ratio to kernel zram in the same round"
	speed := r.of("fio", named(metricSpeed))
	show("block I/O on the file: "+how, ratios(speed, func(c string) bool { return !onLoop(c) && !isNull(c) }))
	show("block I/O through loop: "+how, ratios(speed, func(c string) bool { return (c == zram || onLoop(c)) && !isNull(c) }))
	show("block I/O, what the path allows: medians of the ratio to the same path without a store, and to nbdfuse + nbdkit", limits(speed))
	show("block I/O, CPU seconds a GiB: the program, the processes that serve it, kernel threads", medians(r.of("fio", named(metricCPU))))
	show("block I/O, latency in us: p50/p99/p99.9", r.latencies())
	for _, set := range []struct{ name, title string }{
		{"swap", "swap: "}, {"latency", "swap-in, one page at a time: "}, {"load", "programs under a memory limit: "},
	} {
		show(set.title+how, ratios(r.of(set.name, nil), func(string) bool { return true }))
	}
	show("memory for the same pages", medians(r.of("memory", nil)))
	show("scaling (medians)", medians(r.of("scaling", nil)))
	show("when workers die or are replaced (medians)", medians(r.of("crash", nil)))
	fmt.Fprintf(&b, "\n%s\n", r.summary())
	return b.String()
}

// table is lines of cells; the first is the heading.
type table struct{ head, rows []cells }

type cells []string

// String aligns the columns: the first to the left, the others to the right.
func (t table) String() string {
	lines := append(slices.Clone(t.head), t.rows...)
	var width []int
	for _, line := range lines {
		for i, c := range line {
			if i == len(width) {
				width = append(width, 0)
			}
			width[i] = max(width[i], utf8.RuneCountInString(c))
		}
	}
	var b strings.Builder
	for _, line := range lines {
		for i, c := range line {
			if i == 0 {
				fmt.Fprintf(&b, "  %-*s", width[i], c)
			} else {
				fmt.Fprintf(&b, "  %*s", width[i], c)
			}
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// label names a row. The speed of a job needs no more words.
func (r *row) label() string {
	what := strings.NewReplacer("-", " ", "=", " ").Replace(r.what)
	if r.set == "fio" {
		return what
	}
	return what + " " + r.Name
}

// ratios has an absolute figure for kernel zram, ratios to it for the others,
// and in words whether that is faster.
func ratios(rows []*row, want func(string) bool) table {
	var t table
	names := candidates(rows, want)
	if !slices.ContainsFunc(names, func(n string) bool { return n != zram }) {
		return t
	}
	t.head = []cells{append([]string{"", ""}, names...)}
	for _, r := range rows {
		line := cells{r.label(), r.Unit}
		for _, name := range names {
			s, ok := r.values[name].spread()
			ratio, related := r.values[name].over(r.values[zram])
			switch {
			case !ok:
				line = append(line, "-")
			case name == zram || !related:
				line = append(line, human(s.Median))
			default:
				line = append(line, fmt.Sprintf("%.2f %.2f..%.2f %s", ratio.Median, ratio.Min, ratio.Max, r.verdict(ratio)))
			}
		}
		t.rows = append(t.rows, line)
	}
	return t
}

// limits relates zramfs to its paths without a store, and to nbdfuse.
func limits(rows []*row) table {
	var t table
	names := candidates(rows, ours)
	head := cells{""}
	for _, name := range names {
		head = append(head, name+"/null")
		if !onLoop(name) {
			head = append(head, name+"/nbdfuse")
		}
	}
	for _, r := range rows {
		line, some := cells{r.label()}, false
		cell := func(name, to string) {
			s, ok := r.values[name].over(r.values[to])
			if !ok {
				line = append(line, "-")
				return
			}
			some = true
			line = append(line, fmt.Sprintf("%.2f", s.Median))
		}
		for _, name := range names {
			cell(name, limitOf(name))
			if !onLoop(name) {
				cell(name, nbdfuse)
			}
		}
		if some {
			t.rows = append(t.rows, line)
		}
	}
	t.head = []cells{head}
	return t
}

// medians has absolute figures.
func medians(rows []*row) table {
	var t table
	names := candidates(rows, func(string) bool { return true })
	t.head = []cells{append([]string{"", ""}, names...)}
	for _, r := range rows {
		line := cells{r.label(), r.Unit}
		for _, name := range names {
			line = append(line, r.median(name))
		}
		t.rows = append(t.rows, line)
	}
	return t
}

func (r *row) median(candidate string) string {
	s, ok := r.values[candidate].spread()
	if !ok {
		return "-"
	}
	return human(s.Median)
}

// latencies has three percentiles in a cell.
func (r *results) latencies() table {
	var t table
	rows := r.of("fio", named(metricP50))
	names := candidates(rows, func(string) bool { return true })
	t.head = []cells{append([]string{""}, names...)}
	for _, row := range rows {
		line := cells{row.label()}
		for _, name := range names {
			cell := row.median(name)
			for _, p := range []string{metricP99, metricP999} {
				for _, other := range r.of("fio", named(p)) {
					if other.what == row.what && cell != "-" {
						cell += "/" + other.median(name)
					}
				}
			}
			line = append(line, cell)
		}
		t.rows = append(t.rows, line)
	}
	return t
}

// summary counts where zramfs is faster than the kernel's zram.
func (r *results) summary() string {
	var b strings.Builder
	for _, name := range candidates(r.rows, ours) {
		all, faster := 0, []string{}
		for _, o := range r.rows {
			ratio, ok := o.values[name].over(o.values[zram])
			if !ok || !o.speed() {
				continue
			}
			all++
			if o.verdict(ratio) == "faster" {
				faster = append(faster, fmt.Sprintf("%s %.2f", o.label(), ratio.Median))
			}
		}
		if all > 0 {
			fmt.Fprintf(&b, "%s: faster than kernel zram in every round in %d of %d rows", name, len(faster), all)
			if len(faster) > 0 {
				fmt.Fprintf(&b, ": %s", strings.Join(faster, "; "))
			}
			b.WriteString(".\n")
		}
	}
	return b.String()
}

// speed says whether a row tells how fast something is, once for each thing of
// block I/O.
func (r *row) speed() bool {
	switch r.set {
	case "fio":
		return r.Name == metricSpeed
	case "memory", "scaling", "crash":
		return false
	}
	return r.Name != metricCPU
}
