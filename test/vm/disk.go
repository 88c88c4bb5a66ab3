package main

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Of pages of a disk that is no swap.
const (
	// promptly bounds the time for a page in RAM while the server of the others is
	// stopped: a part of how long it is.
	promptly = 5 * time.Second
	// lostAfter bounds the time until all who wait for a server that is gone have
	// their errors; the scenarios' NBD_TIMEOUT is less.
	lostAfter = 30 * time.Second
)

// reading is what came of reading pages of the disk.
type reading struct {
	When string `json:"when"` // written, stalled, after, gone, end
	What string `json:"what"` // ram: pages there; away: those on the server; all

	Pages  int64   `json:"pages"`
	Whole  int64   `json:"whole"` // some may be read again and again
	Errors int64   `json:"errors"`
	Wrong  int64   `json:"wrong"`
	Worst  float64 `json:"worst"` // seconds, for one page
	Took   float64 `json:"took"`  // seconds, for all
}

func readReading(f map[string]string) reading {
	return reading{When: f["when"], What: f["what"], Pages: number(f["pages"]), Whole: number(f["whole"]), Errors: number(f["errors"]),
		Wrong: number(f["wrong"]), Worst: milliseconds(f["worst"]).Seconds(), Took: milliseconds(f["ms"]).Seconds()}
}

// as holds a reading against one word: whole, each page came and was right;
// prompt, and none waited for the server; waits, none came; lost, each came to an
// error, in time.
func (r reading) as(word string) bool {
	switch ok := r.Pages > 0 && r.Wrong == 0; word {
	case "whole":
		return ok && r.Whole >= r.Pages && r.Errors == 0
	case "prompt":
		return ok && r.Whole >= r.Pages && r.Errors == 0 && r.Worst <= promptly.Seconds()
	case "waits":
		return ok && r.Whole == 0 && r.Errors == 0
	case "lost":
		return ok && r.Whole == 0 && r.Errors == r.Pages && r.Took <= lostAfter.Seconds()
	}
	return false
}

// judgeDisk wants each reading that the scenario names, as "when what word", and
// says what is not as it should be.
func judgeDisk(all []reading, s scenario) []string {
	var why []string
	for _, want := range s.disk {
		words := strings.Fields(want)
		i := slices.IndexFunc(all, func(r reading) bool { return r.When == words[0] && r.What == words[1] })
		if i < 0 {
			why = append(why, "nothing was read: "+want)
		} else if !all[i].as(words[2]) {
			why = append(why, fmt.Sprintf("not %s: %+v", want, all[i]))
		}
	}
	return why
}
