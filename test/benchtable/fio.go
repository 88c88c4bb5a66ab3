package main

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/zramfs/zramfs/test/benchrun/record"
)

// Metrics of block I/O.
const (
	metricSpeed = "speed"
	metricCPU   = "CPU"
	metricP50   = "p50"
	metricP99   = "p99"
	metricP999  = "p99.9"
)

const gib = 1 << 30

// cpuPerGiB is what all who took part used for each GiB that was moved.
func cpuPerGiB() metric { return metric{metricCPU, "s/GiB", lower} }

// fioSide is what fio tells of the reads or the writes of a job.
type fioSide struct {
	Bytes   float64 `json:"io_bytes"`
	IOPS    float64 `json:"iops"`
	BW      float64 `json:"bw_bytes"`
	Latency struct {
		Percentile map[string]float64 `json:"percentile"`
	} `json:"clat_ns"`
}

// fioJob is fio's report of a group of jobs: shares of CPU are percents of the
// time of all its threads, which is in milliseconds.
type fioJob struct {
	Error   int     `json:"error"`
	Runtime float64 `json:"job_runtime"`
	User    float64 `json:"usr_cpu"`
	System  float64 `json:"sys_cpu"`
	Read    fioSide `json:"read"`
	Write   fioSide `json:"write"`
}

// fio takes a report of fio, or of a program that reports as fio does.
func (r *results) fio(about origin, rec *record.Run) error {
	var rep struct{ Jobs []fioJob }
	if err := json.Unmarshal(rec.Report, &rep); err != nil {
		return err
	}
	if len(rep.Jobs) != 1 || rep.Jobs[0].Error != 0 {
		return fmt.Errorf("fio reports %d jobs, or an error", len(rep.Jobs))
	}
	j := &rep.Jobs[0]
	bytes := j.Read.Bytes + j.Write.Bytes
	if bytes == 0 {
		return fmt.Errorf("nothing was read or written")
	}
	if strings.HasPrefix(about.what, "1m") {
		r.add(about, metric{metricSpeed, "MiB/s", higher}, (j.Read.BW+j.Write.BW)/(1<<20))
	} else {
		r.add(about, metric{metricSpeed, "IOPS", higher}, j.Read.IOPS+j.Write.IOPS)
	}
	// The program's own share is that of its threads: what it does before and
	// after is not counted.
	own := (j.User + j.System) / 100 * j.Runtime / 1000
	r.add(about, cpuPerGiB(), (own+rec.CPU.Daemon+rec.CPU.Kernel)/(bytes/gib))
	for _, c := range []struct {
		who     string
		seconds float64
	}{{"program", own}, {"daemon", rec.CPU.Daemon}, {"kernel threads", rec.CPU.Kernel}} {
		r.add(about, metric{metricCPU + " of " + c.who, "s/GiB", lower}, c.seconds/(bytes/gib))
	}
	for _, p := range []struct{ name, key string }{
		{metricP50, "50.000000"}, {metricP99, "99.000000"}, {metricP999, "99.900000"},
	} {
		// Of a mixed job the slower side counts.
		if ns := max(j.Read.Latency.Percentile[p.key], j.Write.Latency.Percentile[p.key]); ns > 0 {
			r.add(about, metric{p.name, "us", lower}, ns/1000)
		}
	}
	return nil
}
