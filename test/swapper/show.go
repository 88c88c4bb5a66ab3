package main

import (
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zramfs/zramfs/internal/swapload"
)

// newProgress shows how far a phase is: on a terminal in one line that is
// rewritten, elsewhere a line every two seconds.
func newProgress() func(string, int, int) {
	_, err := unix.IoctlGetTermios(int(os.Stderr.Fd()), unix.TCGETS)
	terminal := err == nil
	every := 2 * time.Second
	if terminal {
		every = 200 * time.Millisecond
	}
	var next time.Time
	return func(phase string, done, of int) {
		if now := time.Now(); now.Before(next) {
			return
		} else {
			next = now.Add(every)
		}
		line := fmt.Sprintf("  %-8s %5d of %d MiB", phase, done/256, of/256)
		switch {
		case terminal && phase == "final" && done == of:
			fmt.Fprintf(os.Stderr, "\r%*s\r", len(line)+8, "")
		case terminal:
			fmt.Fprintf(os.Stderr, "\r%s   ", line)
		default:
			fmt.Fprintln(os.Stderr, line)
		}
	}
}

// table is the report for people.
func table(rep *swapload.Report) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-8s %9s %9s %10s %9s %12s %12s %7s\n",
		"PHASE", "PAGES", "SECONDS", "PAGES/S", "MiB/S", "SWAPPED MiB", "WORST ms", "WRONG")
	for _, p := range rep.Phases {
		fmt.Fprintf(&b, "%-8s %9d %9.2f %10.0f %9.1f %12d %12.1f %7d\n",
			p.Name, p.Pages, p.Seconds, p.PagesPerS, p.MiBs, p.Swapped>>20, p.WorstMs, p.Wrong)
	}
	for _, w := range rep.First {
		fmt.Fprintf(&b, "wrong: page %d of generation %d was %s in phase %s\n", w.Page, w.Gen, w.Kind, w.Phase)
	}
	return b.String()
}
