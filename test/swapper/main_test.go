package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/zramfs/zramfs/internal/swapload"
)

func TestSeveralProcessesAreOneReport(t *testing.T) {
	var all swapload.Report
	for i := range 3 {
		one := swapload.Report{Bytes: 100, Wrong: i, Locked: true, Phases: []swapload.Phase{
			{Name: "fill", Pages: 10, Seconds: float64(i + 1), MiBs: 5, WorstMs: float64(i), Wrong: i},
		}}
		text, err := json.Marshal(one)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(text, &one); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			all = one
		} else {
			all.Merge(&one)
		}
	}
	p := all.Phases[0]
	if all.Bytes != 300 || all.Wrong != 3 || p.Pages != 30 || p.Seconds != 3 || p.WorstMs != 2 || p.PagesPerS != 10 {
		t.Errorf("%+v", all)
	}
}

func TestCommandsForRedis(t *testing.T) {
	var out bytes.Buffer
	o, err := parse([]string{"-size", "12K", "-base", "2", "-corpus", "../../testdata/pages.zst"})
	if err != nil {
		t.Fatal(err)
	}
	if err := writeCommands(o, &out); err != nil {
		t.Fatal(err)
	}
	head := "*3\r\n$3\r\nSET\r\n$16\r\nkey:%012d\r\n$4000\r\n"
	if got := out.Len(); got != 3*(len(fmt.Sprintf(head, 0))+respValue+2) || !strings.HasPrefix(out.String(), fmt.Sprintf(head, 0)) ||
		!strings.Contains(out.String(), "\r\n"+fmt.Sprintf(head, 2)) {
		t.Errorf("%d bytes: %.80q", got, out.String())
	}
}

func TestProcessesNeedALimit(t *testing.T) {
	if _, err := parse([]string{"-procs", "2"}); err == nil {
		t.Error("two processes without a cgroup were accepted")
	}
}
