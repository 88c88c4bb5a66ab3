package main

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"html/template"
	"slices"
	"strings"
)

//go:embed page.html
var pageText string

// pageData is what the page shows.
type pageData struct {
	Machine map[string]any
	Summary []string
	Charts  []template.HTML
	Rows    []exportedRow
}

// page is all of it as one HTML file with the charts inside.
func (r *results) page() ([]byte, error) {
	d := pageData{Rows: r.export().Results, Summary: strings.Split(strings.TrimSpace(r.summary()), "\n")}
	if err := json.Unmarshal(r.facts, &d.Machine); err != nil {
		return nil, fmt.Errorf("facts.json: %w", err)
	}
	for _, c := range r.charts() {
		svg, err := c.draw()
		if err != nil {
			return nil, err
		}
		d.Charts = append(d.Charts, svg)
	}
	t, err := template.New("page").Funcs(template.FuncMap{
		"human": human,
		"ratio": func(s *spread) string { return fmt.Sprintf("%.2f (%.2f..%.2f)", s.Median, s.Min, s.Max) },
	}).Parse(pageText)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	err = t.Execute(&b, d)
	return b.Bytes(), err
}

// perChart is how many places a chart has room for.
const perChart = 18

// charts are the pictures of the page.
func (r *results) charts() []chart {
	var all []chart
	add := func(title, unit string, rows []*row, want func(string) bool, value func(*row, string) (spread, bool), log bool) {
		for part := range slices.Chunk(rows, perChart) {
			c := chart{title: title, unit: unit, one: strings.HasPrefix(unit, "times"), log: log}
			for _, o := range part {
				c.places = append(c.places, o.label())
			}
			for _, name := range candidates(part, want) {
				s := series{name: name}
				for i, o := range part {
					if v, ok := value(o, name); ok && v.Median > 0 {
						s.add(i, v)
					}
				}
				if len(s.at) > 0 {
					c.series = append(c.series, s)
				}
			}
			if len(c.series) > 0 {
				all = append(all, c)
			}
		}
	}
	absolute := func(o *row, name string) (spread, bool) { return o.values[name].spread() }
	ratio := func(o *row, name string) (spread, bool) {
		s, ok := o.values[name].over(o.values[zram])
		if ok && o.Better == lower && s.Min > 0 { // so that higher is better in every bar
			s = spread{1 / s.Median, 1 / s.Max, 1 / s.Min}
		}
		return s, ok
	}
	const speed = "times kernel zram, higher is faster"
	file := func(c string) bool { return c != zram && !onLoop(c) }
	loop := func(c string) bool { return c != zram && onLoop(c) }
	rest := func(c string) bool { return c != zram }
	every := func(string) bool { return true }
	add("Block I/O on the file", speed, r.of("fio", named(metricSpeed)), file, ratio, true)
	add("Block I/O through loop", speed, r.of("fio", named(metricSpeed)), loop, ratio, true)
	add("CPU of all who take part, on the file", "seconds a GiB", r.of("fio", named(metricCPU)), func(c string) bool { return !onLoop(c) }, absolute, true)
	add("CPU of all who take part, through loop", "seconds a GiB", r.of("fio", named(metricCPU)), func(c string) bool { return c == zram || onLoop(c) }, absolute, true)
	for _, p := range []string{metricP50, metricP99, metricP999} {
		add("Latency of block I/O, "+p, "us", r.of("fio", named(p)), every, absolute, true)
	}
	isSpeed := func(o *row) bool { return o.speed() }
	add("Swap", speed, r.of("swap", isSpeed), rest, ratio, false)
	add("Swap-in", speed, r.of("latency", isSpeed), rest, ratio, false)
	add("Programs under a memory limit", speed, r.of("load", isSpeed), rest, ratio, false)
	add("Memory for the same pages", "MiB", r.of("memory", nil), every, absolute, false)
	for _, key := range r.dimensions() {
		rows := r.of("scaling", func(o *row) bool { return key == o.dimension() })
		add("Scaling: "+key, key[strings.Index(key, ", ")+2:], rows, every, absolute, false)
	}
	return all
}

// dimension names what a row of scaling is a point of: what grows, and what is
// looked at.
func (r *row) dimension() string {
	grows, _, _ := strings.Cut(r.what, "=")
	return grows + ", " + r.Name
}

func (r *results) dimensions() []string {
	var keys []string
	for _, o := range r.of("scaling", nil) {
		if !slices.Contains(keys, o.dimension()) {
			keys = append(keys, o.dimension())
		}
	}
	return keys
}
