// Benchtable reads what scripts/bench.sh measured, and prints tables: ratios to
// the kernel's zram of the same round, as median and spread over the rounds. With -json and
// -html it also writes all figures as JSON, and as a page with charts that
// needs no network. It measures nothing, and says nothing that the figures do not say.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
)

func main() {
	var out outputs
	flag.StringVar(&out.json, "json", "", "write all figures to this file, too")
	flag.StringVar(&out.html, "html", "", "write a page with charts to this file, too")
	flag.Parse()
	if err := run(flag.Arg(0), out); err != nil {
		fmt.Fprintln(os.Stderr, "benchtable:", err)
		os.Exit(1)
	}
}

type outputs struct{ json, html string }

func run(dir string, out outputs) error {
	r, err := read(dir)
	if err != nil {
		return err
	}
	if len(r.rows) == 0 {
		return fmt.Errorf("no results in %s", dir)
	}
	fmt.Print(r.tables())
	if out.json != "" {
		text, err := json.MarshalIndent(r.export(), "", "  ")
		if err != nil {
			return err
		}
		if err := os.WriteFile(out.json, append(text, '\n'), 0o644); err != nil {
			return err
		}
	}
	if out.html == "" {
		return nil
	}
	page, err := r.page()
	if err != nil {
		return err
	}
	return os.WriteFile(out.html, page, 0o644)
}
