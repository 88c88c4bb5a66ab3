package main

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// raw is a directory as the script leaves it.
type raw struct {
	t   *testing.T
	dir string
}

func newRaw(t *testing.T) *raw {
	r := &raw{t, t.TempDir()}
	r.write("facts.json", `{"cpus": 2, "kernel": "6.18"}`)
	return r
}

func (r *raw) write(name, text string) {
	r.t.Helper()
	if err := os.WriteFile(filepath.Join(r.dir, name), []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

// fio is one 4 KiB job of a second: IOPS of writes, and p99 in us.
func (r *raw) fio(what, candidate string, round int, iops, p99 float64) {
	r.write(fmt.Sprintf("fio.%s.%s.%d.json", what, candidate, round), fmt.Sprintf(`{"seconds": 1.2, "cpu": {"command": 9, "daemon": 0.25, "kernel": 0.125},
		"report": {"jobs": [{"error": 0, "job_runtime": 2000, "usr_cpu": 10, "sys_cpu": 21.25, "read": {"io_bytes": 0, "iops": 0},
		"write": {"io_bytes": %d, "iops": %f, "bw_bytes": %f, "clat_ns": {"percentile": {"50.000000": 4000, "99.000000": %f, "99.900000": 900000}}}}]}}`,
		int64(iops*4096), iops, iops*4096, p99*1000))
}

func (r *raw) read() *results {
	r.t.Helper()
	res, err := read(r.dir)
	if err != nil {
		r.t.Fatal(err)
	}
	return res
}

func near(a, b float64) bool { return math.Abs(a-b) < 1e-6*max(math.Abs(a), math.Abs(b), 1) }

func TestMedianAndSpread(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   spread
	}{
		{[]float64{3}, spread{3, 3, 3}},
		{[]float64{5, 1, 3}, spread{3, 1, 5}},
		{[]float64{4, 1, 2, 9}, spread{3, 1, 9}},
	} {
		if got := spreadOf(c.values); got != c.want {
			t.Errorf("%v: %v, want %v", c.values, got, c.want)
		}
	}
}

// The machine became slower from round to round; the ratio did not notice. The
// ratio of the medians would be 1.00, since a round is missing.
func TestRatiosAreTakenWithinARound(t *testing.T) {
	zram := rounds{1: 400, 2: 200, 3: 100, 4: 50}
	ours := rounds{1: 480, 2: 240, 3: 150}
	s, ok := ours.over(zram)
	if want := (spread{1.2, 1.2, 1.5}); !ok || !near(s.Median, want.Median) || !near(s.Min, want.Min) || !near(s.Max, want.Max) {
		t.Errorf("%v, want %v", s, want)
	}
	if _, ok := ours.over(rounds{7: 1}); ok {
		t.Error("a ratio without a common round")
	}
}

func TestVerdictNeedsEveryRound(t *testing.T) {
	speed, latency, cpu := metric{Better: higher}, metric{Better: lower}, cpuPerGiB()
	for _, c := range []struct {
		m    metric
		s    spread
		want string
	}{
		{speed, spread{1.3, 1.01, 1.5}, "faster"}, {speed, spread{1.3, 0.99, 1.5}, "even"}, {speed, spread{0.8, 0.7, 0.99}, "slower"},
		{latency, spread{0.8, 0.7, 0.99}, "faster"}, {latency, spread{1.3, 1.1, 1.5}, "slower"}, {latency, spread{1, 1, 1}, "even"},
		{cpu, spread{0.8, 0.7, 0.9}, "less"}, {cpu, spread{2, 2, 3}, "more"},
	} {
		if got := c.m.verdict(c.s); got != c.want {
			t.Errorf("%v better, %v: %s, want %s", c.m.Better, c.s, got, c.want)
		}
	}
}

func TestFioReport(t *testing.T) {
	r := newRaw(t)
	r.fio("4k-qd32-j1-66-write", "percpu", 1, 262144, 80) // a GiB
	for _, o := range r.read().rows {
		got, _ := o.values["percpu"].spread()
		// 31.25 % of 2 s in the program's threads, and the daemon, and the kernel.
		want := map[string]float64{"speed": 262144, "CPU": 0.625 + 0.25 + 0.125,
			"CPU of program": 0.625, "CPU of daemon": 0.25, "CPU of kernel threads": 0.125, "p50": 4, "p99": 80, "p99.9": 900}[o.Name]
		if !near(got.Median, want) {
			t.Errorf("%s: %v, want %v", o.Name, got.Median, want)
		}
	}
	r.write("fio.4k-qd1-j1-66-read.zram.1.json", `{"report": {"jobs": [{"error": 5}]}}`)
	if _, err := read(r.dir); err == nil {
		t.Error("a job that ended with an error was shown as a figure")
	}
	r.write("fio.4k-qd1-j1-66-read.zram.1.json", `{"report": {"jobs": [{"error": 0}]}}`)
	if _, err := read(r.dir); err == nil {
		t.Error("a job that did nothing was shown as a figure")
	}
}

func TestLoadsAreRead(t *testing.T) {
	r := newRaw(t)
	r.write("swap.4x-p1.percpu.1.json", `{"cpu": {"command": 1, "daemon": 2, "kernel": 1}, "report": {"phases": [
		{"name": "fill", "pages": 131072, "mib_per_second": 400}, {"name": "random", "pages": 131072, "pages_per_second": 5000}]}}`)
	r.write("latency.swap-in.percpu.1.json", `{"report": {"phases": [{"name": "pageout", "mib_per_second": 300}],
		"latency": {"touches": 100, "major_faults": 99, "p50_us": 9, "p99_us": 50, "p999_us": 400}}}`)
	r.write("load.redis-get.percpu.1.json", `{"report": "\"test\",\"rps\",\"p50_latency_ms\",\"p99_latency_ms\"\n\"GET\",\"51234.5\",\"0.071\",\"0.6\"\n"}`)
	r.write("load.go-build.percpu.1.json", `{"seconds": 30, "cpu": {"command": 50, "daemon": 4, "kernel": 1}, "report": ""}`)
	r.write("scaling.stored=16G.percpu.1.json", `{"report": {"us a page": 3.5}}`)
	r.write("scaling.stored=2G.percpu.1.json", `{"report": {"us a page": 3.25}}`)
	got := map[string]float64{}
	var order []string
	for _, o := range r.read().rows {
		s, _ := o.values["percpu"].spread()
		got[o.label()] = s.Median
		order = append(order, o.label())
	}
	want := map[string]float64{"4x p1 fill": 400, "4x p1 random": 5000, "4x p1 CPU": 4, "swap in pageout": 300, "swap in p50": 9, "swap in p99": 50,
		"swap in p99.9": 400, "redis get speed": 51234.5, "redis get p50": 71, "redis get p99": 600, "redis get CPU": 0,
		"go build time": 30, "go build CPU": 55, "stored 2G us a page": 3.25, "stored 16G us a page": 3.5}
	for name, v := range want {
		if !near(got[name], v) {
			t.Errorf("%s: %v, want %v", name, got[name], v)
		}
	}
	if len(got) != len(want) || order[len(order)-1] != "stored 16G us a page" {
		t.Errorf("rows: %q", order)
	}
	for name, text := range map[string]string{
		"swap.2x-p1.percpu.1.json":     `{"report": {"wrong_pages": 1, "phases": [{"name": "fill", "pages": 9}]}}`,
		"latency.swap-in.zram.1.json":  `{"report": {"latency": {"touches": 100, "major_faults": 3}}}`,
		"memory.stored.percpu.1.json":  `{"report": {}}`,
		"load.redis-get.zram.1.json":   `{"report": "nothing"}`,
		"elsewhere.what.percpu.1.json": `{"report": {}}`,
	} {
		bad := newRaw(t)
		bad.write(name, text)
		if _, err := read(bad.dir); err == nil {
			t.Errorf("%s: %s was taken", name, text)
		}
	}
}

func TestTablesJSONAndPage(t *testing.T) {
	r := newRaw(t)
	for round, iops := range []float64{100000, 300000, 200000} {
		r.fio("4k-qd32-j1-66-write", "zram", round+1, iops, 50)
		r.fio("4k-qd32-j1-66-write", "percpu", round+1, iops*1.25, 80)
		r.fio("4k-qd32-j1-66-write", "percpu-null", round+1, iops*2.5, 60)
		r.fio("4k-qd32-j1-66-write", "percpu-loop", round+1, iops/2, 80)
		r.fio("4k-qd1-j1-66-write", "zram", round+1, iops, 50)
		r.fio("4k-qd1-j1-66-write", "percpu", round+1, iops*(0.9+float64(round)/8), 80)
	}
	res := r.read()
	text := strings.Join(strings.Fields(res.tables()), " ")
	for _, want := range []string{
		"zram percpu 4k qd1 j1 66 write IOPS 200k 1.02 0.90..1.15 even 4k qd32 j1 66 write IOPS 200k 1.25 1.25..1.25 faster",
		"zram percpu-loop 4k qd1 j1 66 write IOPS 200k - 4k qd32 j1 66 write IOPS 200k 0.50 0.50..0.50 slower",
		"4k qd32 j1 66 write 0.50 -", // to null; to nbdfuse
		"4/50/900",
		"percpu: faster than kernel zram in every round in 1 of 2 rows: 4k qd32 j1 66 write 1.25.",
		"percpu-loop: faster than kernel zram in every round in 0 of 1 rows.",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the tables do not say %q:\n%s", want, res.tables())
		}
	}

	out := outputs{json: filepath.Join(r.dir, "out.json"), html: filepath.Join(r.dir, "out.html")}
	if err := run(r.dir, out); err != nil {
		t.Fatal(err)
	}
	var e exported
	got, err := os.ReadFile(out.json)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(got, &e); err != nil {
		t.Fatal(err)
	}
	f := e.Results[len(e.Results)-8].Candidates["percpu"]
	if f.Verdict != "faster" || !near(f.ToZram.Median, 1.25) || !near(f.ToNull.Median, 0.5) || f.Rounds[3] != 250000 {
		t.Errorf("JSON: %+v", f)
	}
	page, err := os.ReadFile(out.html)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"<svg", "Block I/O on the file", "class=\"faster\"", "6.18"} {
		if !strings.Contains(string(page), want) {
			t.Errorf("the page has no %q", want)
		}
	}
	for _, never := range []string{"src=", "<?xml", "<script", "@import"} {
		if strings.Contains(string(page), never) {
			t.Errorf("the page has %q", never)
		}
	}
}

func TestNamesSortByTheirNumbers(t *testing.T) {
	for _, c := range [][2]string{{"4k-qd1-j1", "4k-qd8-j1"}, {"4k-qd8-j1", "4k-qd32-j1"}, {"4k-qd32-j4", "1m-qd1-j1"}, {"disk=512G", "disk=4T"}, {"a", "ab"}} {
		if compareNatural(c[0], c[1]) >= 0 || compareNatural(c[1], c[0]) <= 0 {
			t.Errorf("%s does not come before %s", c[0], c[1])
		}
	}
}
