package main

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

// maxGap is how long nobody may hear of a machine, of a program in it, or of
// an eater.
const maxGap = 10 * time.Second

// maxGrowth is how many KiB of private memory a process that is armed may take
// afterwards, whatever it is asked: a stack that grew, a page of counters.
const maxGrowth = 512

// outcome is what a guest's lines say. Its JSON form is a cell's result.
type outcome struct {
	Passed bool     `json:"passed"`
	Slow   bool     `json:"slow,omitempty"` // nothing but gaps was wrong, which a busy host can cause
	Why    []string `json:"why,omitempty"`  // what was not as it should be

	Seconds float64  `json:"seconds"`  // of the host, boot to end
	Ready   float64  `json:"ready"`    // of the guest, boot to swap
	HeldMiB int64    `json:"held_mib"` // most that the eaters held
	Touches int64    `json:"touches"`  // pages looked at and whole
	Wrong   int64    `json:"wrong"`
	Ends    []string `json:"ends"` // of eaters

	BeatGap  float64 `json:"beat_gap"` // seconds, by the host's clock
	PulseGap float64 `json:"pulse_gap"`
	EaterGap float64 `json:"eater_gap"`

	Killed   []string          `json:"killed,omitempty"` // by the OOM killer, in order
	SwapErrs int               `json:"swap_errors,omitempty"`
	Events   []string          `json:"events,omitempty"`
	Refused  int64             `json:"refused,omitempty"` // reads of statistics and commands that failed
	Disk     []reading         `json:"disk,omitempty"`    // of a disk that is no swap
	Off      int               `json:"off"`               // exit code of the last swapoff; -1: none
	Faults   map[string]int64  `json:"faults,omitempty"`  // by role: since armed
	Growth   map[string]int64  `json:"growth,omitempty"`  // KiB of private memory, by role: since armed
	VM       map[string]string `json:"vm,omitempty"`
	Memory   map[string]int64  `json:"memory,omitempty"` // KiB: where it went before the eaters came
}

// emulatorFailed says that a guest did not fail by itself: QEMU without KVM
// sometimes lets a CPU run into the breakpoint that the kernel puts where it
// changes its own code. Such a guest proves nothing.
func emulatorFailed(lines []line) bool {
	return slices.ContainsFunc(lines, func(l line) bool { return l.Port == console && strings.Contains(l.Text, "Oops: int3") })
}

// reader builds an outcome line by line.
type reader struct {
	o        outcome
	last     time.Duration // when the last report came; 0: none yet
	ended    bool
	stages   []string // of setup, that failed
	pages    map[string]int64
	faults   map[string]int64 // by pid, when armed
	private  map[string]int64
	guards   []string
	panic    string
	fatal    []string
	upgraded bool
	asked    int64             // statistics that were read
	errors   bool              // swap is lost on purpose
	victims  []string          // pids, of the OOM killer
	lives    []*life           // of daemons, one after another
	roles    map[string]string // of the daemon's processes, by pid
	bare     map[string]int64
}

var oomKill = regexp.MustCompile(`Killed process (\d+) \(([^)]*)\)`)

func (r *reader) console(text string) {
	switch {
	case strings.Contains(text, "Kernel panic"):
		r.panic = text[strings.Index(text, "Kernel panic"):]
	case oomKill.MatchString(text):
		m := oomKill.FindStringSubmatch(text)
		r.o.Killed = append(r.o.Killed, m[2])
		r.victims = append(r.victims, m[1])
	case strings.Contains(text, "error on swap-device"):
		r.o.SwapErrs++
	}
}

func (r *reader) report(at time.Duration, text string) {
	if r.last != 0 {
		r.o.BeatGap = max(r.o.BeatGap, (at - r.last).Seconds())
	}
	r.last = at
	word, rest, _ := strings.Cut(text, " ")
	f := fields(rest)
	switch word {
	case "beat":
		p, _ := readBeat(text)
		r.o.HeldMiB = max(r.o.HeldMiB, p.held/256)
		r.o.PulseGap = max(r.o.PulseGap, p.pulse.Seconds(), p.worstPulse.Seconds())
		r.o.EaterGap = max(r.o.EaterGap, p.worstEater.Seconds())
		r.o.Wrong = max(r.o.Wrong, p.wrong)
		r.o.Refused = number(f["failed"])
		r.asked = max(r.asked, number(f["reads"]))
	case "setup":
		if f["code"] != "0" && f["what"] != "off" {
			r.stages = append(r.stages, f["what"]+" failed with "+f["code"])
		}
		if f["what"] == "on" {
			r.lives = append(r.lives, newLife())
		}
		if f["what"] == "on" && r.o.Ready == 0 {
			r.o.Ready = milliseconds(f["up"]).Seconds()
		}
	case "eater":
		r.eater(f)
	case "process":
		r.process(f)
	case "memory":
		r.memory(f)
	case "file":
		_, value, _ := strings.Cut(rest, " text=")
		switch f["when"] {
		case "armed":
			r.o.VM[f["name"]] = strings.TrimRight(value, ";")
		case "end":
			r.now().files[f["name"]] = value
		}
	case "event":
		r.o.Events = append(r.o.Events, f["what"]+":"+f["result"])
		r.now().event(f)
		r.upgraded = r.upgraded || f["what"] == "upgrade"
	case "read":
		r.o.Disk = append(r.o.Disk, readReading(f))
	case "cycle":
		r.o.Off = int(number(f["off"]))
	case "lost":
		// The OOM killer may take a bystander; where swap is lost, its pages are too.
		if f["signal"] != "9" && (f["signal"] != "7" || !r.errors) {
			r.fatal = append(r.fatal, "a bystander ended: "+rest)
		}
	case "fatal":
		r.fatal = append(r.fatal, rest)
	case "end":
		r.ended = true
	}
}

func (r *reader) eater(f map[string]string) {
	end := "code " + f["code"]
	switch {
	case f["signal"] == "9":
		end = "killed"
	case f["signal"] != "0":
		end = "signal " + f["signal"]
	case f["code"] == "0" && f["verified"] == f["pages"]:
		end = "whole"
	}
	r.o.Ends = append(r.o.Ends, end)
	r.o.Touches += number(f["touches"])
	r.o.Wrong = max(r.o.Wrong, number(f["wrong"]))
	r.pages[f["index"]] = max(r.pages[f["index"]], number(f["pages"]))
	sum := int64(0)
	for _, n := range r.pages {
		sum += n
	}
	r.o.HeldMiB = max(r.o.HeldMiB, sum/256)
	r.o.EaterGap = max(r.o.EaterGap, milliseconds(f["worst"]).Seconds())
}

// process holds what zramfs says of itself against what /proc says.
func (r *reader) process(f map[string]string) {
	who := f["role"] + " " + f["pid"] + ", " + f["when"] + ": "
	if f["threads"] != f["flagged"] {
		r.guards = append(r.guards, who+f["flagged"]+" of "+f["threads"]+" threads are I/O flushers")
	}
	if f["oom"] != "-1000" {
		r.guards = append(r.guards, who+"oom_score_adj is "+f["oom"])
	}
	if number(f["swap"]) > 0 {
		r.guards = append(r.guards, who+f["swap"]+" KiB of it are in swap")
	}
	r.roles[f["pid"]] = f["role"]
	minor, major := number(f["minflt"]), number(f["majflt"])
	switch f["when"] {
	case "armed":
		r.faults[f["pid"]], r.private[f["pid"]] = minor, number(f["anon"])
		r.o.Memory[f["role"]] += number(f["pss"])
	case "end":
		before, ok := r.faults[f["pid"]]
		if !ok {
			r.o.Faults[f["role"]+", new, major"] += major
			return
		}
		// A new program is read from where its file lies, while the old one
		// still serves; there is no telling here which fault came when.
		if major > 0 && !r.upgraded {
			r.guards = append(r.guards, who+f["majflt"]+" major faults")
		}
		r.o.Faults[f["role"]] = minor - before
		growth := number(f["anon"]) - r.private[f["pid"]]
		r.o.Growth[f["role"]] = growth
		if growth > maxGrowth {
			r.guards = append(r.guards, fmt.Sprintf("%sit has %d KiB more of private memory than when it was armed", who, growth))
		}
	}
}

// memory keeps what zramfs took before there was any load.
func (r *reader) memory(f map[string]string) {
	switch f["when"] {
	case "bare":
		for _, k := range []string{"free", "slab", "tables", "stacks"} {
			r.bare[k] = number(f[k])
		}
		r.o.Memory["bare_free"] = r.bare["free"]
		r.o.Memory["total"] = number(f["total"])
	case "armed":
		r.o.Memory["taken"] = r.bare["free"] - number(f["free"])
		for _, k := range []string{"slab", "tables", "stacks"} {
			r.o.Memory[k] = number(f[k]) - r.bare[k]
		}
	}
}

// judge reads what a guest said and holds it against what its scenario wants.
func judge(lines []line, how ending, s scenario) outcome {
	r := reader{errors: s.errors, roles: map[string]string{}, pages: map[string]int64{}, faults: map[string]int64{}, private: map[string]int64{}, bare: map[string]int64{}}
	r.o = outcome{Off: -1, Faults: map[string]int64{}, Growth: map[string]int64{}, VM: map[string]string{}, Memory: map[string]int64{}}
	for _, l := range lines {
		if l.Port == console {
			r.console(l.Text)
		} else {
			r.report(l.At, l.Text)
		}
		r.o.Seconds = l.At.Seconds()
	}
	gaps, wrong := r.gaps(s), r.verdict(how, s)
	r.o.Why = append(gaps, wrong...)
	r.o.Passed, r.o.Slow = len(r.o.Why) == 0, len(gaps) > 0 && len(wrong) == 0
	return r.o
}

// gaps are those that were too long by the host's clock.
func (r *reader) gaps(s scenario) (why []string) {
	for _, gap := range []struct {
		what    string
		seconds float64
		allowed time.Duration
	}{{"reports", r.o.BeatGap, maxGap}, {"pulses", r.o.PulseGap, maxGap}, {"an eater's pages", r.o.EaterGap, maxGap + s.stall}} {
		if gap.seconds > gap.allowed.Seconds() {
			why = append(why, fmt.Sprintf("%.1f s between two of %s", gap.seconds, gap.what))
		}
	}
	return why
}

// verdict is everything else that is not as it should be.
func (r *reader) verdict(how ending, s scenario) []string {
	var why []string
	bad := func(format string, args ...any) { why = append(why, fmt.Sprintf(format, args...)) }
	if r.panic != "" {
		bad("%s", r.panic)
	}
	if how != endedItself {
		bad("the guest did not end by itself: %s", how)
	} else if !r.ended && r.panic == "" {
		bad("the guest ended without a word")
	}
	for _, text := range r.stages {
		bad("setup: %s", text)
	}
	for _, text := range r.fatal {
		bad("%s", text)
	}
	if r.o.Wrong > 0 {
		bad("%d wrong pages", r.o.Wrong)
	}
	for _, end := range r.o.Ends {
		if !s.mayEnd(end) {
			bad("an eater's end: %s, not %s", end, s.ends)
		}
	}
	if len(r.o.Ends) == 0 {
		bad("no eater came to its end")
	}
	for _, pid := range r.victims {
		if role := r.roles[pid]; role != "" {
			bad("the OOM killer took the %s", role)
		}
	}
	if r.o.SwapErrs > 0 && !s.errors {
		bad("%d errors on the swap device", r.o.SwapErrs)
	}
	if got := len(r.o.Events); got < s.events {
		bad("%d events of %d happened", got, s.events)
	}
	if s.reads && r.asked == 0 {
		bad("no statistics were read")
	}
	if s.reads && r.o.Refused > r.asked/100 {
		bad("%d reads of statistics and commands failed, of %d", r.o.Refused, r.asked)
	}
	for _, e := range r.o.Events {
		if !strings.HasSuffix(e, ":0") {
			bad("event %s", e)
		}
	}
	why = append(why, judgeDisk(r.o.Disk, s)...)
	if s.serves() {
		why = append(why, r.crashes(len(s.disk) > 0)...)
	}
	if r.o.Off != 0 {
		bad("swapoff: %d", r.o.Off)
	}
	return append(why, r.guards...)
}
