// Benchtable reads what scripts/bench.sh measured and prints a table of
// absolute figures and one of ratios for each peer that ratios are taken to;
// with -json it writes the figures to a file as well. Every figure is the median over the rounds.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
)

// Candidates that ratios are taken to.
const (
	zram    = "zram"
	nbdfuse = "nbdfuse"
)

func main() {
	out := flag.String("json", "", "write the figures to this file too")
	flag.Parse()
	if err := run(flag.Arg(0), *out); err != nil {
		fmt.Fprintln(os.Stderr, "benchtable:", err)
		os.Exit(1)
	}
}

func run(dir, out string) error {
	s, err := read(dir)
	if err != nil {
		return err
	}
	if len(s.rows) == 0 {
		return fmt.Errorf("no results in %s", dir)
	}
	fmt.Print(s.absolutes())
	for _, ref := range []struct{ name, title string }{
		{zram, "kernel zram (lz4)"},
		{nbdfuse, "nbdfuse + nbdkit memory (zstd)"},
	} {
		if s.has(ref.name) {
			fmt.Printf("\nRatios to %s\n%s", ref.title, s.ratios(ref.name))
		}
	}
	if out == "" {
		return nil
	}
	text, err := json.MarshalIndent(s.export(), "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(out, append(text, '\n'), 0o644)
}
