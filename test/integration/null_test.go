package integration

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A null mount measures the path. Whoever would trust it with data is refused.
func TestNullKeepsNothingAndSaysSo(t *testing.T) {
	need(t)
	m := mount(t, "--null", "--size", "64M")
	f := open(t, m.disk(0), os.O_RDWR)
	writeAt(t, f, 4096, bytes.Repeat([]byte("gone"), 1024))
	readAt(t, f, 4096, pageSize)
	if err := f.Sync(); err != nil {
		t.Error(err)
	}
	if got := m.get("mm_stat"); strings.Trim(got, "0 \n") != "" {
		t.Errorf("something was stored: mm_stat %s", got)
	}

	refused(t, 2, []string{"attach", m.point}, "--null", "keeps nothing")
	refused(t, 2, []string{"save", m.point, filepath.Join(t.TempDir(), "image")}, "--null")
	refused(t, 2, []string{"mount", filepath.Join(scratch(t), "mp"), "--null", "--backing", "/dev/null"}, "--backing")
	const name = "null-test"
	point := filepath.Join("/run/zramfs", name)
	if err := os.MkdirAll(point, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(point) })
	swap := mountAt(t, point, "--null", "--size", "64M")
	refused(t, 2, []string{"swapon", "--name", name}, "--null", "keeps nothing")

	var all []struct {
		State    string
		Warnings []string
	}
	if err := json.Unmarshal([]byte(zramfs(t, "status", "--json", swap.point)), &all); err != nil {
		t.Fatal(err)
	}
	if len(all) != 1 || all[0].State != "null" || !strings.Contains(strings.Join(all[0].Warnings, "\n"), "nothing that is written here is kept") {
		t.Errorf("status: %+v", all)
	}
}
