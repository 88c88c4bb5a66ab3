package main

import (
	"fmt"
	"strconv"
	"strings"
)

// life is a daemon, from swapon to swapoff: what was done to it, and what it
// told before it ended.
type life struct {
	deaths, faults, keepers int64             // that were caused
	files                   map[string]string // when=end, by name
}

func newLife() *life { return &life{files: map[string]string{}} }

// now is the life that lines speak of.
func (r *reader) now() *life {
	if len(r.lives) == 0 {
		r.lives = append(r.lives, newLife())
	}
	return r.lives[len(r.lives)-1]
}

// event notes whom one killed.
func (l *life) event(f map[string]string) {
	switch what := f["what"]; {
	case what == "kill" && f["role"] == "worker" && f["signal"] == "9", what == "kill-worker":
		l.deaths++
	case what == "kill" && f["role"] == "worker":
		l.deaths++
		l.faults++
	case what == "kill" && f["role"] == "keeper":
		l.keepers++
	case what == "kill-both":
		l.deaths++
		l.keepers++
	}
}

// crashes judges every life that came to its end, and the last in any case.
func (r *reader) crashes(disk bool) (why []string) {
	for _, l := range r.lives {
		if len(l.files) > 0 || l == r.now() {
			why = append(why, l.judge(disk)...)
		}
	}
	return why
}

// judge holds what a daemon counted against what was done to it. A worker that
// died by itself is replaced so fast that nothing else tells. The reads of a disk
// fail when what its server had is lost.
func (l *life) judge(disk bool) (why []string) {
	bad := func(format string, args ...any) { why = append(why, fmt.Sprintf(format, args...)) }
	stat := l.files["crash_stat"]
	if stat == "" {
		bad("nobody served at the end")
		return why
	}
	most := map[string]int64{"deaths": l.deaths, "faults": l.faults, "keepers": l.keepers, "poisoned": 0}
	for line := range strings.SplitSeq(stat, ";") {
		name, value, _ := strings.Cut(line, " ")
		limit, counted := most[name]
		if !counted {
			continue
		}
		delete(most, name)
		if n, err := strconv.ParseInt(value, 10, 64); err != nil || n > limit {
			bad("crash_stat counts %s %s, and %d were caused: %s", value, name, limit, stat)
		}
	}
	for _, name := range sortedKeys(most) {
		bad("crash_stat does not tell of %s: %s", name, stat)
	}
	if io := strings.Fields(strings.TrimRight(l.files["io_stat"], ";")); !disk && (len(io) < 2 || io[0] != "0" || io[1] != "0") {
		bad("io_stat counts failed reads or writes: %q", l.files["io_stat"])
	}
	return why
}
