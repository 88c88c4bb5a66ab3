// Vm runs guests whose only swap is zramfs, small enough that memory runs out,
// or whose disk has a network block device under it, and judges them from
// outside. scripts/vm.sh makes what it needs and starts it.
//
// Exit codes: 0 all guests did as they should, 1 some did not, 2 it could not
// run, 3 it was interrupted, 4 some were too slow by the host's clock, and
// nothing else was wrong.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// patience bounds a guest that goes on and on. It is generous: the host may
// have other things to do, and a guest that stands still is found long before.
const patience = 20 * time.Minute

// bootTries is how often a guest is started again that the emulator let down.
const bootTries = 3

const (
	exitWrong  = 1
	exitUsage  = 2
	exitKilled = 3
	exitSlow   = 4
)

// dirs are where things lie.
type dirs struct {
	root string // the source tree
	work string // build/vm: kernels, binaries, results
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// settings collects --set NAME=VALUE.
type settings map[string]string

func (s settings) String() string { return fmt.Sprint(map[string]string(s)) }

func (s settings) Set(text string) error {
	k, v, ok := strings.Cut(text, "=")
	if !ok || k == "" {
		return errors.New("expected NAME=VALUE")
	}
	s[k] = v
	return nil
}

// options are the command's flags.
type options struct {
	dirs
	accel    string
	verbose  bool
	again    bool
	repeat   int
	scenario string
	short    bool
	matrix   bool
	ablate   string
	list     bool
	one      cell
}

func main() {
	var o options
	o.one.Set = settings{}
	flag.StringVar(&o.root, "root", ".", "source tree")
	flag.StringVar(&o.work, "work", "build/vm", "where kernels and binaries are, and results go")
	flag.StringVar(&o.accel, "accel", "tcg", "QEMU's accelerator: tcg or kvm")
	flag.BoolVar(&o.verbose, "v", false, "print what guests say, as they say it")
	flag.BoolVar(&o.again, "again", false, "run also what has passed before")
	flag.BoolVar(&o.short, "short", false, "the cells of make test")
	flag.BoolVar(&o.matrix, "matrix", false, "every scenario in every size, several times")
	flag.StringVar(&o.ablate, "ablate", "", "guards to be switched off, one by one: a list with commas, or all")
	flag.BoolVar(&o.list, "list", false, "list the scenarios")
	flag.StringVar(&o.scenario, "run", "", "one scenario, with the flags below")
	flag.IntVar(&o.repeat, "repeat", 1, "how often")
	flag.StringVar(&o.one.Kernel, "kernel", newest, "kernel")
	flag.IntVar(&o.one.Memory, "memory", 256, "MiB")
	flag.IntVar(&o.one.CPUs, "cpus", 2, "CPUs")
	flag.IntVar(&o.one.MGLRU, "mglru", 1, "multi-generational LRU: 0 or 1")
	flag.IntVar(&o.one.Cgroup, "cgroup", 2, "cgroup version that is mounted, 0 for none")
	flag.StringVar(&o.one.Without, "without", "", "guards switched off: a list with commas")
	flag.Var(settings(o.one.Set), "set", "a parameter of the guest, NAME=VALUE, such as EAT=150; may come several times")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	all, err := o.run(ctx)
	switch {
	case ctx.Err() != nil:
		os.Exit(exitKilled)
	case err != nil:
		fmt.Fprintln(os.Stderr, "vm:", err)
		os.Exit(exitUsage)
	}
	os.Exit(verdict(all))
}

// verdict is the exit code for these results. Guests without a guard may fail:
// that is what was to be found out.
func verdict(all []result) (code int) {
	for _, r := range all {
		switch {
		case r.Outcome.Passed || r.Cell.Without != "":
		case !r.Outcome.Slow:
			return exitWrong
		default:
			code = exitSlow
		}
	}
	return code
}

// cells are those that the flags ask for.
func (o options) cells() ([]cell, error) {
	switch {
	case o.scenario != "":
		if _, err := findScenario(o.scenario); err != nil {
			return nil, err
		}
		var cells []cell
		for i := range o.repeat {
			c := o.one
			c.Scenario, c.Run = o.scenario, i+1
			cells = append(cells, c)
		}
		return cells, nil
	case o.matrix:
		return matrix(), nil
	case o.ablate != "":
		if o.ablate == "all" {
			return ablation(worth()), nil
		}
		return ablation(strings.Split(o.ablate, ",")), nil
	case o.short:
		return short(), nil
	}
	return nil, errors.New("nothing to do: --short, --matrix, --ablate GUARDS, --run SCENARIO or --list")
}

func (o options) run(ctx context.Context) (all []result, err error) {
	if o.list {
		for _, s := range scenarios() {
			fmt.Printf("%-12s %s\n", s.name, s.about)
		}
		return nil, nil
	}
	cells, err := o.cells()
	if err != nil {
		return nil, err
	}
	b := bench{options: o, initrds: map[string]string{}}
	if err := b.open(); err != nil {
		return nil, err
	}
	fmt.Println(heading())
	for _, c := range cells {
		r, err := b.one(ctx, c)
		if err != nil || ctx.Err() != nil {
			return all, err
		}
		fmt.Println(r.row())
		if !r.Outcome.Passed && !o.verbose {
			r.explain(os.Stderr)
		}
		all = append(all, r)
	}
	fmt.Print(summary(all))
	return all, nil
}

// bench runs cells and keeps their results.
type bench struct {
	options
	results string
	initrds map[string]string // by kernel
}

// open finds where results of these very binaries are kept: those of another
// build prove nothing about this one.
func (b *bench) open() error {
	id, err := fingerprint(filepath.Join(b.work, "zramfs"), filepath.Join(b.work, "init"))
	if err != nil {
		return err
	}
	b.results = filepath.Join(b.work, "results", id)
	return os.MkdirAll(b.results, 0o755)
}

// one runs a cell, or says how it went before.
func (b *bench) one(ctx context.Context, c cell) (result, error) {
	s, err := findScenario(c.Scenario)
	if err != nil {
		return result{}, err
	}
	if r, ok := b.load(c); ok && r.Outcome.Passed && !b.again && len(c.Set) == 0 {
		r.before = true
		return r, nil
	}
	if b.initrds[c.Kernel] == "" {
		if b.initrds[c.Kernel], err = b.initrd(c.Kernel); err != nil {
			return result{}, err
		}
	}
	g := guest{
		kernel: filepath.Join(b.work, "kernel", c.Kernel, "vmlinuz"),
		initrd: b.initrds[c.Kernel],
		memory: c.Memory, cpus: c.CPUs, accel: b.accel,
		params: c.params(s, b.settingsOf(c)),
		limit:  patience, stall: s.stall, nbd: len(s.disk) > 0,
	}
	if b.verbose {
		g.echo = os.Stdout
	}
	lines, how, err := g.run(ctx)
	for range bootTries {
		if err != nil || !emulatorFailed(lines) {
			break
		}
		lines, how, err = g.run(ctx)
	}
	if err != nil || how == endedStop {
		return result{}, err
	}
	r := result{Cell: c, Outcome: judge(lines, how, s), said: lines}
	return r, b.save(r, lines)
}
