package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/zramfs/zramfs/test/benchrun/record"
)

func TestStatOfANameWithParentheses(t *testing.T) {
	const line = "77 (kworker/0:1) x (y) I 2 0 0 0 -1 69238880 0 0 0 0 150 250 0 0 20 0 1 0 40 0 0"
	s, flags, ok := parseStat(line)
	if !ok || s != 4 || flags&kernelThread == 0 {
		t.Errorf("%v seconds, flags %x, %v", s, flags, ok)
	}
	if _, _, ok := parseStat("77 (cut"); ok {
		t.Error("a line without figures was taken")
	}
}

func TestCPUOfWhoTookPart(t *testing.T) {
	before := times{daemons: map[int]float64{1: 5, 2: 1}, kernel: map[int]float64{7: 2, 8: 100}}
	after := times{daemons: map[int]float64{1: 5.5}, kernel: map[int]float64{7: 3, 9: 0.25}}
	if got := after.since(before); got != (record.CPU{Daemon: 0.5, Kernel: 1.25}) {
		t.Errorf("%+v", got)
	}
}

func TestRunRecordsReportAndTimes(t *testing.T) {
	out := filepath.Join(t.TempDir(), "run.json")
	err := run(&options{out: out, args: []string{"sh", "-c", `echo 'note: {not JSON'; echo '{"iops": 7}'; i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done`}})
	if err != nil {
		t.Fatal(err)
	}
	var r record.Run
	var report struct{ IOPS int }
	text, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &r); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(r.Report, &report); err != nil || report.IOPS != 7 || r.Seconds <= 0 || r.CPU.Command <= 0 {
		t.Errorf("%s: %v", text, err)
	}
	if err := run(&options{out: out, args: []string{"false"}}); err == nil {
		t.Error("a program that failed was recorded")
	}
}

func TestTextIsAReportToo(t *testing.T) {
	if got := record.Of([]byte("\"GET\",\"5\"\n")); string(got) != `"\"GET\",\"5\"\n"` {
		t.Errorf("%s", got)
	}
}
