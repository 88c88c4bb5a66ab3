package main

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

const beat = "beat up=9000 free=5196 swaptotal=1048572 swapfree=900000 swapcached=9 pulse=400 pulse_worst=1200 acted=0 reads=0 " +
	"commands=0 failed=0 e0=1,34329,4291,0,0,70,771 e1=2,256,10,0,1,9000,80"

func TestReadBeat(t *testing.T) {
	p, ok := readBeat(beat)
	if !ok || p.held != 34585 || p.wrong != 1 || p.pulse != 400*time.Millisecond || p.worstPulse != 1200*time.Millisecond {
		t.Fatalf("%+v", p)
	}
	// Eaters stand still only when all of them do; the worst is any one's.
	if p.eaters != 70*time.Millisecond || p.worstEater != 9*time.Second {
		t.Fatalf("eaters %v, worst %v", p.eaters, p.worstEater)
	}
	if _, ok := readBeat("memory when=bare free=1"); ok {
		t.Fatal("another line is taken for a beat")
	}
}

// good is what a guest says in which everything goes well.
func good() []string {
	return []string{
		"boot up=3000", "setup what=machine code=0 ms=10 up=3100",
		"memory when=bare total=217088 free=183128 slab=8528 stacks=1000 tables=76",
		"setup what=on code=0 ms=2000 up=5000",
		"memory when=armed total=217088 free=153128 slab=9528 stacks=1400 tables=476",
		"process when=armed role=keeper pid=149 threads=8 flagged=8 oom=-1000 minflt=1271 majflt=0 swap=0 anon=1872 pss=5890",
		"process when=armed role=worker pid=161 threads=17 flagged=17 oom=-1000 minflt=8848 majflt=0 swap=0 anon=2592 pss=36660",
		"file when=armed name=min_free_kbytes text=1810;",
		"beat up=6000 pulse=8 pulse_worst=19 e0=1,28704,3588,0,0,0,23",
		"event what=stop pid=161 result=0",
		"eater index=0 phase=5 code=0 signal=0 pages=67545 touches=77285 verified=67545 wrong=0 worst=517",
		"file when=end name=crash_stat text=generations 1;deaths 0;faults 0;upgrades 0;keepers 0;last_reason ;poisoned 0;standby yes;",
		"file when=end name=io_stat text=       0        0        0        0;",
		"process when=end role=worker pid=161 threads=17 flagged=17 oom=-1000 minflt=8850 majflt=0 swap=0 anon=2600 pss=36660",
		"setup what=off code=0 ms=1263 up=51889", "cycle n=0 off=0", "end up=51899",
	}
}

func said(texts []string, words ...string) []line {
	var lines []line
	for i, text := range texts {
		lines = append(lines, line{time.Duration(i) * time.Second, reports, text})
	}
	for _, w := range words {
		lines = append(lines, line{time.Minute, console, w})
	}
	return lines
}

func TestJudge(t *testing.T) {
	want := scenario{ends: "whole", events: 1}
	replaced := func(old, text string) []string {
		texts := good()
		for i := range texts {
			texts[i] = strings.Replace(texts[i], old, text, 1)
		}
		return texts
	}
	for _, c := range []struct {
		name  string
		lines []line
		how   ending
		why   string // a part of the only reason; "": passed
	}{
		{"good", said(good()), endedItself, ""},
		{"silent", said(good()), endedSilent, "did not end by itself"},
		{"panic", said(good(), "[ 1.0] Kernel panic - not syncing: x"), endedItself, "Kernel panic"},
		{"no last word", said(good()[:16]), endedItself, "without a word"},
		{"setup", said(replaced("on code=0", "on code=3")), endedItself, "on failed with 3"},
		{"pulse", said(replaced("pulse=8", "pulse=11000")), endedItself, "11.0 s between two of pulses"},
		{"eater stood", said(replaced("worst=517", "worst=10100")), endedItself, "10.1 s between two of an eater"},
		{"wrong page", said(replaced("wrong=0", "wrong=2")), endedItself, "2 wrong pages"},
		{"not all verified", said(replaced("verified=67545", "verified=67544")), endedItself, "an eater's end"},
		{"killed", said(replaced("signal=0", "signal=9"), "Killed process 170 (eater)"), endedItself, "an eater's end: killed"},
		{"OOM takes a bystander", said(good(), "Out of memory: Killed process 170 (bystander) total"), endedItself, ""},
		{"OOM takes us", said(good(), "Out of memory: Killed process 161 (zramfs) total"), endedItself, "took the worker"},
		{"OOM takes a command", said(good(), "Out of memory: Killed process 999 (zramfs) total"), endedItself, ""},
		{"swap error", said(good(), "Write-error on swap-device (7:0:8)"), endedItself, "errors on the swap device"},
		{"event failed", said(replaced("pid=161 result=0", "pid=161 result=5")), endedItself, "event stop:5"},
		{"event missing", said(replaced("event what", "else what")), endedItself, "0 events of 1"},
		{"swapoff", said(replaced("off=0", "off=4")), endedItself, "swapoff: 4"},
		{"flags", said(replaced("flagged=8", "flagged=7")), endedItself, "7 of 8 threads"},
		{"score", said(replaced("oom=-1000", "oom=0")), endedItself, ""},
		{"in swap", said(replaced("majflt=0 swap=0 anon=2600", "majflt=0 swap=12 anon=2600")), endedItself, "12 KiB of it are in swap"},
		{"grown", said(replaced("swap=0 anon=2600", "swap=0 anon=3200")), endedItself, "608 KiB more of private memory"},
		{"died", said(replaced("deaths 0", "deaths 1")), endedItself, "counts 1 deaths, and 0 were caused"},
		{"crashed", said(replaced("faults 0", "faults 1")), endedItself, "counts 1 faults, and 0 were caused"},
		{"poisoned", said(replaced("poisoned 0", "poisoned 1")), endedItself, "counts 1 poisoned"},
		{"keeper died", said(replaced("keepers 0", "keepers 1")), endedItself, "counts 1 keepers"},
		{"gone", said(replaced("when=end name=crash_stat", "when=off name=crash_stat")), endedItself, "nobody served at the end"},
		{"not told", said(replaced("poisoned 0;", "")), endedItself, "does not tell of poisoned"},
		{"failed write", said(replaced("text=       0        0", "text=       0        1")), endedItself, "failed reads or writes"},
		{"major fault", said(replaced("majflt=0 swap=0 anon=2600", "majflt=3 swap=0 anon=2600")), endedItself, "3 major faults"},
	} {
		o := judge(c.lines, c.how, want)
		switch {
		case c.name == "score":
			if len(o.Why) != 3 { // both when armed, the worker at its end
				t.Errorf("%s: %q", c.name, o.Why)
			}
		case c.why == "" && !o.Passed, c.why != "" && (len(o.Why) != 1 || !strings.Contains(o.Why[0], c.why)):
			t.Errorf("%s: %q, want %q", c.name, o.Why, c.why)
		}
	}
	curious := want
	curious.reads = true
	for counts, why := range map[string]string{"reads=200 commands=9 failed=2": "", "reads=0 failed=0": "no statistics", "reads=200 failed=3": "3 reads of statistics"} {
		o := judge(said(replaced("pulse_worst=19", "pulse_worst=19 "+counts)), endedItself, curious)
		if o.Passed != (why == "") || !strings.Contains(strings.Join(o.Why, ";"), why) {
			t.Errorf("%s: %q, want %q", counts, o.Why, why)
		}
	}
	// Who was killed has died, and no other.
	for deaths, why := range map[string]string{"deaths 1;faults 0;upgrades 0;keepers 0": "", "deaths 2;faults 0;upgrades 0;keepers 0": "counts 2 deaths, and 1"} {
		texts := replaced("what=stop", "what=kill role=worker signal=9")
		for i := range texts {
			texts[i] = strings.Replace(texts[i], "deaths 0;faults 0;upgrades 0;keepers 0", deaths, 1)
		}
		if o := judge(said(texts), endedItself, want); o.Passed != (why == "") || !strings.Contains(strings.Join(o.Why, ";"), why) {
			t.Errorf("%s: %q, want %q", deaths, o.Why, why)
		}
	}
	if o := judge(said(replaced("what=stop", "what=upgrade")), endedItself, want); !o.Passed {
		t.Errorf("upgrade: %q", o.Why)
	}
	if o := judge(said(good()), endedItself, want); o.HeldMiB != 263 || o.Faults["worker"] != 2 || o.Growth["worker"] != 8 ||
		o.VM["min_free_kbytes"] != "1810" || o.Memory["taken"] != 30000 {
		t.Errorf("%+v", o)
	}
}

// A gap between two lines counts by the host's clock, whatever they say.
func TestJudgeGap(t *testing.T) {
	lines := said(good())
	for i := range lines[9:] {
		lines[9+i].At += 11 * time.Second
	}
	o := judge(lines, endedItself, scenario{ends: "whole", events: 1})
	if o.Passed || !strings.Contains(strings.Join(o.Why, ";"), "12.0 s between two of reports") {
		t.Errorf("%q", o.Why)
	}
	if !o.Slow {
		t.Error("a busy host may have caused it")
	}
}

// Only where nothing but gaps was wrong may another run make it right.
func TestVerdict(t *testing.T) {
	want := scenario{ends: "whole", events: 1}
	changed := func(pairs ...string) result {
		var lines []line
		for _, l := range said(good()) {
			l.Text = strings.NewReplacer(pairs...).Replace(l.Text)
			lines = append(lines, l)
		}
		return result{Outcome: judge(lines, endedItself, want)}
	}
	well, slow := changed(), changed("pulse=8", "pulse=11000")
	wrong, both := changed("wrong=0", "wrong=1"), changed("wrong=0", "wrong=1", "pulse=8", "pulse=11000")
	without := both
	without.Cell.Without = "locked"
	for _, c := range []struct {
		all  []result
		want int
	}{
		{nil, 0}, {[]result{well, without}, 0}, {[]result{slow, well}, exitSlow},
		{[]result{wrong}, exitWrong}, {[]result{both}, exitWrong}, {[]result{slow, wrong, slow}, exitWrong},
	} {
		if got := verdict(c.all); got != c.want {
			t.Errorf("exit code %d, want %d: %+v", got, c.want, c.all)
		}
	}
}

// Every entry begins at a multiple of four, and says how long it is.
func TestArchive(t *testing.T) {
	var a archive
	a.directory("bin")
	a.file("bin/x", []byte("12345"))
	a.link("bin/y", "x")
	a.end()
	b := a.Bytes()
	var names []string
	for len(b) > 0 {
		if !bytes.HasPrefix(b, []byte("070701")) {
			t.Fatalf("no header after %q", names)
		}
		size, name := hex(t, b[54:62]), hex(t, b[94:102])
		names = append(names, string(b[110:110+name-1]))
		at := (110 + name + 3) &^ 3
		b = b[(at+size+3)&^3:]
	}
	if got := strings.Join(names, " "); got != "bin bin/x bin/y TRAILER!!!" {
		t.Fatal(got)
	}
}

func hex(t *testing.T, digits []byte) int {
	t.Helper()
	n := 0
	for _, d := range digits {
		n = n*16 + strings.IndexByte("0123456789ABCDEF", d)
	}
	return n
}

func TestCellsDiffer(t *testing.T) {
	seen := map[string]bool{}
	for _, cells := range [][]cell{matrix(), ablation([]string{"mlock", "flusher"})} {
		clear(seen)
		for _, c := range cells {
			if seen[c.key()] {
				t.Errorf("%s twice", c.key())
			}
			seen[c.key()] = true
			if _, err := findScenario(c.Scenario); err != nil {
				t.Error(err)
			}
		}
	}
	for _, c := range short() {
		if _, err := findScenario(c.Scenario); err != nil {
			t.Error(err)
		}
	}
}

// The kernel takes at most 32 words that it does not know as init's environment.
func TestParametersFit(t *testing.T) {
	for _, s := range scenarios() {
		c := cell{Scenario: s.name, Kernel: newest, Memory: 256, Without: "mlock,flusher", Run: 1}
		p := c.params(s, map[string]string{"min_free_kbytes": "8192", "page-cluster": "0"})
		length := 0
		for k, v := range p {
			length += len(k) + len(v) + 4
			if strings.ContainsAny(k, ".") || strings.ContainsAny(v, "\"") {
				t.Errorf("%s: %s=%s is no word for init", s.name, k, v)
			}
		}
		if len(p) > 28 || length > 1500 {
			t.Errorf("%s: %d parameters, %d characters", s.name, len(p), length)
		}
	}
}
