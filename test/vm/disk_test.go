package main

import (
	"strings"
	"testing"
)

// What a guest says whose server has stalled and gone, and each way in which that
// can be wrong.
func TestJudgeDisk(t *testing.T) {
	want := scenario{ends: "whole", events: 1, disk: []string{"stalled ram prompt", "stalled away waits", "after away whole", "gone away lost"}}
	texts := func(old, text string) []string {
		all := strings.Join([]string{
			"read when=stalled what=ram pages=1024 whole=9000 errors=0 wrong=0 worst=35 ms=12000",
			"read when=stalled what=away pages=1024 whole=0 errors=0 wrong=0 worst=0 ms=12000",
			"read when=after what=away pages=1024 whole=1024 errors=0 wrong=0 worst=12100 ms=900",
			"read when=gone what=away pages=1024 whole=0 errors=1024 wrong=0 worst=12 ms=800",
		}, "\n")
		return append(good()[:len(good())-4], append(strings.Split(strings.Replace(all, old, text, 1), "\n"), good()[len(good())-4:]...)...)
	}
	for _, c := range []struct{ name, old, text, why string }{
		{"good", "", "", ""},
		{"a page in RAM waited", "worst=35", "worst=5001", "not stalled ram prompt"},
		{"not all in RAM were read", "whole=9000", "whole=1023", "not stalled ram prompt"},
		{"a page in RAM is lost", "whole=9000 errors=0", "whole=9000 errors=1", "not stalled ram prompt"},
		{"a page was not away", "stalled what=away pages=1024 whole=0", "stalled what=away pages=1024 whole=1", "not stalled away waits"},
		{"lost by a stall", "stalled what=away pages=1024 whole=0 errors=0", "stalled what=away pages=1024 whole=0 errors=2", "not stalled away waits"},
		{"wrong after it", "whole=1024 errors=0 wrong=0 worst=12100", "whole=1023 errors=0 wrong=1 worst=12100", "not after away whole"},
		{"came from nowhere", "whole=0 errors=1024", "whole=1 errors=1023", "not gone away lost"},
		{"errors too late", "worst=12 ms=800", "worst=12 ms=30001", "not gone away lost"},
		{"never read", "when=gone", "when=after", "nothing was read: gone away"},
	} {
		o := judge(said(texts(c.old, c.text)), endedItself, want)
		if o.Passed != (c.why == "") || c.why != "" && (len(o.Why) != 1 || !strings.Contains(o.Why[0], c.why)) {
			t.Errorf("%s: %q, want %q", c.name, o.Why, c.why)
		}
	}
}

// Each scenario's words are ones that a guest's reading can be held against.
func TestDiskWords(t *testing.T) {
	for _, s := range scenarios() {
		for _, want := range s.disk {
			words := strings.Fields(want)
			if len(words) != 3 {
				t.Fatalf("%s: %q", s.name, want)
			}
			r := reading{Pages: 1, Whole: 1}
			switch words[2] {
			case "waits":
				r.Whole = 0
			case "lost":
				r.Whole, r.Errors = 0, 1
			}
			if !r.as(words[2]) {
				t.Errorf("%s: %q is not a word", s.name, words[2])
			}
		}
	}
}

// A server does as it is asked, and answers.
func TestServerAnswers(t *testing.T) {
	var none *server
	for text, want := range map[string]string{"server stop": "1", "beat up=1": ""} {
		var b strings.Builder
		none.heard(text, &b)
		if b.String() != want {
			t.Errorf("%s: %q, want %q", text, b.String(), want)
		}
	}
}
