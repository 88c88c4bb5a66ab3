package main

import (
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/zramfs/zramfs/test/benchrun/record"
)

// swapReport is swapper's.
type swapReport struct {
	Wrong  int `json:"wrong_pages"`
	Phases []struct {
		Name  string  `json:"name"`
		Pages float64 `json:"pages"`
		MiBs  float64 `json:"mib_per_second"`
		Rate  float64 `json:"pages_per_second"`
	} `json:"phases"`
	Latency *struct {
		Touches float64 `json:"touches"`
		Major   float64 `json:"major_faults"`
		P50     float64 `json:"p50_us"`
		P99     float64 `json:"p99_us"`
		P999    float64 `json:"p999_us"`
	} `json:"latency"`
}

func readSwap(rec *record.Run) (*swapReport, error) {
	var rep swapReport
	if err := json.Unmarshal(rec.Report, &rep); err != nil {
		return nil, err
	}
	if rep.Wrong > 0 {
		return nil, fmt.Errorf("%d pages did not come back as they were", rep.Wrong)
	}
	return &rep, nil
}

// swap takes memory that did not fit.
func (r *results) swap(about origin, rec *record.Run) error {
	rep, err := readSwap(rec)
	if err != nil {
		return err
	}
	pages := 0.0
	for _, p := range rep.Phases {
		pages += p.Pages
		switch p.Name {
		case "random":
			r.add(about, metric{p.Name, "pages/s", higher}, p.Rate)
		case "fill", "verify":
			r.add(about, metric{p.Name, "MiB/s", higher}, p.MiBs)
		}
	}
	if pages == 0 {
		return errors.New("no page was touched")
	}
	r.add(about, cpuPerGiB(), sum(rec.CPU)/(pages*4096/gib))
	return nil
}

func sum(c record.CPU) float64 { return c.Command + c.Daemon + c.Kernel }

// latency takes touches of pages in swap.
func (r *results) latency(about origin, rec *record.Run) error {
	rep, err := readSwap(rec)
	if err != nil {
		return err
	}
	l := rep.Latency
	if l == nil || l.Major < l.Touches/2 {
		return errors.New("most pages were not in swap when they were touched")
	}
	for _, p := range rep.Phases {
		if p.Name == "pageout" {
			r.add(about, metric{p.Name, "MiB/s", higher}, p.MiBs)
		}
	}
	r.add(about, metric{metricP50, "us", lower}, l.P50)
	r.add(about, metric{metricP99, "us", lower}, l.P99)
	r.add(about, metric{metricP999, "us", lower}, l.P999)
	return nil
}

// load takes programs: redis-benchmark tells rates, of others the time counts.
func (r *results) load(about origin, rec *record.Run) error {
	if about.what != "redis-get" {
		r.add(about, metric{"time", "s", lower}, rec.Seconds)
		r.add(about, metric{metricCPU, "s", lower}, sum(rec.CPU))
		return nil
	}
	var text string
	if err := json.Unmarshal(rec.Report, &text); err != nil {
		return err
	}
	table, err := csv.NewReader(strings.NewReader(text)).ReadAll()
	if err != nil || len(table) != 2 {
		return fmt.Errorf("redis-benchmark --csv printed %d lines, expected 2: %v", len(table), err)
	}
	for _, c := range []struct {
		column string
		metric
		times float64
	}{
		{"rps", metric{metricSpeed, "GET/s", higher}, 1},
		{"p50_latency_ms", metric{metricP50, "us", lower}, 1000},
		{"p99_latency_ms", metric{metricP99, "us", lower}, 1000},
	} {
		i := slices.Index(table[0], c.column)
		if i < 0 {
			return fmt.Errorf("redis-benchmark prints no %s", c.column)
		}
		v, err := strconv.ParseFloat(table[1][i], 64)
		if err != nil {
			return err
		}
		r.add(about, c.metric, v*c.times)
	}
	r.add(about, metric{metricCPU, "s", lower}, sum(rec.CPU))
	return nil
}

// memory takes what a store needed for the same pages.
func (r *results) memory(about origin, rec *record.Run) error {
	var m struct {
		Compr float64 `json:"compr_data_size"`
		Used  float64 `json:"mem_used_total"`
		Pss   float64 `json:"pss"`
	}
	if err := json.Unmarshal(rec.Report, &m); err != nil {
		return err
	}
	if m.Used == 0 || m.Compr == 0 {
		return errors.New("nothing was stored")
	}
	r.add(about, metric{"compr_data_size", "MiB", lower}, m.Compr/(1<<20))
	r.add(about, metric{"mem_used_total", "MiB", lower}, m.Used/(1<<20))
	if m.Pss > 0 {
		r.add(about, metric{"beside it (Pss)", "MiB", lower}, (m.Pss-m.Used)/(1<<20))
	}
	return nil
}

// scaling takes figures by name; what is measured is DIMENSION=VALUE. Of all of
// them less is better but of a speed, and of what ends in /s.
func (r *results) scaling(about origin, rec *record.Run) error {
	values := map[string]float64{}
	if err := json.Unmarshal(rec.Report, &values); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		m := metric{name, "", lower}
		if strings.HasSuffix(name, "/s") || strings.HasPrefix(name, "speed") {
			m.Better = higher
		}
		r.add(about, m, values[name])
	}
	return nil
}
