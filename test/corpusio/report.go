package main

import (
	"fmt"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"golang.org/x/sys/unix"
)

// The parts of fio's report that are read. percentiles are fio's keys.
type report struct {
	Jobs []jobReport `json:"jobs"`
}

type jobReport struct {
	Error   int        `json:"error"`
	Runtime int64      `json:"job_runtime"` // ms, of all threads
	User    float64    `json:"usr_cpu"`     // percent of Runtime
	System  float64    `json:"sys_cpu"`
	Read    sideReport `json:"read"`
	Write   sideReport `json:"write"`
}

type sideReport struct {
	Bytes   int64   `json:"io_bytes"`
	IOPS    float64 `json:"iops"`
	BW      float64 `json:"bw_bytes"`
	Latency struct {
		Percentile map[string]int64 `json:"percentile"`
	} `json:"clat_ns"`
}

// summary adds the jobs up, as fio's group_reporting does.
func summary(o *options, jobs []*job, elapsed time.Duration, used cpu) report {
	var both [2]sideReport
	for kind := range both {
		all := hdrhistogram.New(100, most, 3)
		n := int64(0)
		for _, j := range jobs {
			n += j.ios[kind].requests
			all.Merge(j.ios[kind].latency)
		}
		s := &both[kind]
		s.Bytes = n * int64(o.bs)
		s.IOPS = float64(n) / elapsed.Seconds()
		s.BW = float64(s.Bytes) / elapsed.Seconds()
		if n > 0 {
			s.Latency.Percentile = map[string]int64{}
			for _, p := range []float64{50, 99, 99.9} {
				s.Latency.Percentile[fmt.Sprintf("%f", p)] = all.ValueAtQuantile(p)
			}
		}
	}
	r := jobReport{Runtime: elapsed.Milliseconds() * int64(len(jobs)), Read: both[read], Write: both[write]}
	if whole := time.Duration(r.Runtime) * time.Millisecond; whole > 0 {
		r.User, r.System = 100*float64(used.user)/float64(whole), 100*float64(used.system)/float64(whole)
	}
	return report{[]jobReport{r}}
}

// cpu is processor time.
type cpu struct{ user, system time.Duration }

// cpuTime is what this process has used so far.
func cpuTime() cpu {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return cpu{}
	}
	return cpu{time.Duration(u.Utime.Nano()), time.Duration(u.Stime.Nano())}
}

func (c cpu) less(other cpu) cpu { return cpu{c.user - other.user, c.system - other.system} }
