package main

import (
	"strconv"
	"strings"
	"time"
)

// progress is what one beat says.
type progress struct {
	pulse, eaters time.Duration // since the last pulse; since any eater did something
	worstPulse    time.Duration
	worstEater    time.Duration
	held          int64 // pages
	wrong         int64
}

// fields reads "key=value" words.
func fields(text string) map[string]string {
	m := map[string]string{}
	for _, word := range strings.Fields(text) {
		if k, v, ok := strings.Cut(word, "="); ok {
			m[k] = v
		}
	}
	return m
}

func number(text string) int64 {
	n, _ := strconv.ParseInt(text, 10, 64) // a torn line is judged by what it lacks
	return n
}

func milliseconds(text string) time.Duration { return time.Duration(number(text)) * time.Millisecond }

// readBeat reads a line of beat.
func readBeat(text string) (progress, bool) {
	if !strings.HasPrefix(text, "beat ") {
		return progress{}, false
	}
	f := fields(text)
	p := progress{pulse: milliseconds(f["pulse"]), worstPulse: milliseconds(f["pulse_worst"])}
	alive := false
	for i := 0; ; i++ {
		e := strings.Split(f["e"+strconv.Itoa(i)], ",")
		if len(e) < 7 {
			break
		}
		p.held += number(e[1])
		p.wrong += number(e[4])
		p.worstEater = max(p.worstEater, milliseconds(e[6]))
		if phase := e[0]; phase == "0" || phase == "5" {
			continue
		}
		age := milliseconds(e[5])
		if !alive || age < p.eaters {
			p.eaters = age
		}
		alive = true
		p.worstEater = max(p.worstEater, age)
	}
	return p, true
}
