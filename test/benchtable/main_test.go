package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestTablesShowMediansAndRatios(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("facts.json", `{"cpus": 2}`)
	for round, iops := range []int{100000, 300000, 200000} {
		write(fmt.Sprintf("block.4k-qd32.write.zram.%d.json", round+1), fmt.Sprintf(`{"jobs": [{"write": {"iops": %d}}]}`, iops))
		write(fmt.Sprintf("block.4k-qd32.write.zramfs-loop.%d.json", round+1), fmt.Sprintf(`{"jobs": [{"write": {"iops": %d}}]}`, iops/2))
	}
	write("block.1m-qd4.read.zramfs.1.json", `{"jobs": [{"read": {"bw_bytes": 1048576000}}]}`)
	write("memory.zramfs.1.json", `{"orig_data_size": 3145728, "compr_data_size": 900000, "mem_used_total": 1048576, "pss": 3145728}`)
	out := filepath.Join(dir, "out")
	if err := run(dir, out); err != nil {
		t.Fatal(err)
	}
	s, err := read(dir)
	if err != nil {
		t.Fatal(err)
	}
	squeeze := func(table string) string { return strings.Join(strings.Fields(table), " ") }
	if got := squeeze(s.absolutes()); !strings.HasPrefix(got, "zram zramfs zramfs-loop 4k-qd32 write IOPS 200k - 100k 1m-qd4 read MiB/s - 1000") ||
		!strings.HasSuffix(got, "(Pss) MiB - 2 -") {
		t.Errorf("absolutes: %s", got)
	}
	if got := squeeze(s.ratios(zram)); got != "zram zramfs zramfs-loop 4k-qd32 write IOPS 1.00 - 0.50" {
		t.Errorf("ratios: %s", got)
	}
	var e exported
	text, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &e); err != nil || *e.Results[0].Candidates["zramfs-loop"].Ratio != 0.5 {
		t.Errorf("JSON: %v\n%s", err, text)
	}
}

func TestAFailedJobIsNoFigure(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"facts.json": "{}", "block.4k-qd1.read.zram.1.json": `{"jobs": [{"error": 5}]}`} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := run(dir, ""); err == nil {
		t.Error("a job that ended with an error was shown as a figure")
	}
}
