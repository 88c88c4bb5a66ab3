package integration

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"testing"
)

// told is what a test says of the crashes that it causes. A worker that dies is
// replaced before anybody notices, so each that was not told of fails the test.
type told struct {
	kills    bool  // workers or keepers are killed from outside, as often as it likes
	faults   int64 // so many workers at most die by a fault
	poisoned int64 // so many requests at most get an I/O error for that
	over     bool  // the mount may be gone when the test ends
}

// crashes holds what crash_stat counts against what the test has told.
func (m *mnt) crashes() {
	m.t.Helper()
	if ids := m.devices(); len(ids) > 0 {
		for _, wrong := range m.told.against(m.get(fmt.Sprintf("zram%d/zramfs/crash_stat", ids[0]))) {
			m.t.Error(wrong)
		}
	}
}

// against says what a crash_stat counts that was not told of. That of a worker
// which nobody can replace counts nothing: its death ends the mount.
func (c told) against(stat string) (wrong []string) {
	most := map[string]int64{"deaths": c.faults, "keepers": 0, "faults": c.faults, "poisoned": c.poisoned}
	if c.kills {
		most["deaths"], most["keepers"] = math.MaxInt64, math.MaxInt64
	}
	for line := range strings.Lines(stat) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if limit, counted := most[name]; counted {
			if n, err := strconv.ParseInt(value, 10, 64); err != nil || n > limit {
				wrong = append(wrong, fmt.Sprintf("crash_stat counts %s %s, the test caused %d at most:\n%s", value, name, limit, stat))
			}
		}
	}
	return wrong
}

func TestCrashesAreSeen(t *testing.T) {
	stat := func(deaths, faults, keepers, poisoned int) string {
		return fmt.Sprintf("generations 3\ndeaths %d\nfaults %d\nupgrades 1\nkeepers %d\nlast_reason exit status 2: panic: x\npoisoned %d\nstandby yes\n",
			deaths, faults, keepers, poisoned)
	}
	for _, c := range []struct {
		told told
		stat string
		want int
	}{
		{told{}, stat(0, 0, 0, 0), 0},
		{told{}, "generations 1\n", 0},
		{told{}, stat(1, 0, 0, 0), 1},
		{told{}, stat(1, 1, 0, 0), 2},
		{told{}, stat(0, 0, 1, 0), 1},
		{told{kills: true}, stat(7, 0, 2, 0), 0},
		{told{kills: true}, stat(7, 1, 2, 0), 1},
		{told{kills: true, faults: 2}, stat(7, 2, 2, 0), 0},
		{told{faults: 2}, stat(2, 2, 0, 1), 1},
		{told{faults: 2, poisoned: 1}, stat(2, 2, 0, 1), 0},
	} {
		if got := c.told.against(c.stat); len(got) != c.want {
			t.Errorf("%+v against\n%s: %q, want %d complaints", c.told, c.stat, got, c.want)
		}
	}
}
