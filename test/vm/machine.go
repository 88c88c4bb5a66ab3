package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// The host's patience with a guest that says nothing. A machine that spins for
// want of memory trips none of the kernel's own watchdogs, so silence is the
// only sign.
const (
	silenceAsk   = 12 * time.Second // then its CPUs are asked what they do
	silenceEnd   = 30 * time.Second // then it is over
	bootPatience = 90 * time.Second
)

// ports are the serial lines of a guest: the kernel's words, and ours.
const (
	console = "console"
	reports = "report"
)

// line is a line of a guest's serial output, and when it came.
type line struct {
	At   time.Duration // since the guest's start
	Port string
	Text string
}

// guest is what it takes to start a machine.
type guest struct {
	kernel, initrd string
	memory, cpus   int
	accel          string
	params         map[string]string
	limit          time.Duration
	stall          time.Duration // eaters may stand still so long: their daemon is stopped
	nbd            bool          // it is given a network disk
	echo           io.Writer     // nil: lines are kept only
}

// ending says how a guest came to its end.
type ending string

const (
	endedItself ending = "ended"
	endedSilent ending = "silent"
	endedLate   ending = "time limit"
	endedStop   ending = "interrupted"
)

// run starts the machine and returns everything it said.
func (g guest) run(ctx context.Context) ([]line, ending, error) {
	dir, err := os.MkdirTemp("", "zramfs-vm.")
	if err != nil {
		return nil, "", fmt.Errorf("guest: %w", err)
	}
	defer os.RemoveAll(dir)
	socket := filepath.Join(dir, "report")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return nil, "", fmt.Errorf("guest: %w", err)
	}
	defer listener.Close()

	var disk *server // nil: none
	if g.nbd {
		if disk, err = startServer(); err != nil {
			return nil, "", err
		}
		defer disk.end()
		g.params = maps.Clone(g.params)
		g.params["NBD_PORT"] = fmt.Sprint(disk.port)
	}
	cmd := exec.Command("nice", append([]string{"qemu-system-x86_64"}, g.arguments(socket)...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, "", fmt.Errorf("guest: %w", err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, "", fmt.Errorf("guest: %w", err)
	}
	cmd.Stderr = cmd.Stdout
	r := recorder{start: time.Now(), echo: g.echo}
	r.heard = r.start.Add(bootPatience - silenceEnd)
	if err := cmd.Start(); err != nil {
		return nil, "", fmt.Errorf("guest: %w", err)
	}
	var readers sync.WaitGroup
	readers.Go(func() {
		if conn, err := listener.Accept(); err == nil {
			defer conn.Close()
			r.read(reports, conn, func(text string) { disk.heard(text, conn) })
		}
	})
	done := make(chan struct{})
	go func() {
		r.read(console, stdout, func(string) {})
		close(done)
	}()
	how := g.watch(ctx, &r, stdin, done)
	if how != endedItself {
		_ = cmd.Process.Kill() // Wait tells
		<-done
	}
	listener.Close()
	readers.Wait()
	if err := cmd.Wait(); err != nil && how == endedItself {
		return r.lines, how, fmt.Errorf("guest: qemu: %w", err)
	}
	return r.lines, how, nil
}

func (g guest) arguments(socket string) []string {
	words := []string{"console=ttyS0", "panic=-1", "loglevel=5", "random.trust_cpu=1", "sysrq_always_enabled"}
	for _, k := range sortedKeys(g.params) {
		words = append(words, fmt.Sprintf("%s=\"%s\"", k, g.params[k]))
	}
	cpu := []string{"-accel", g.accel}
	if g.accel == "tcg" {
		cpu = []string{"-accel", "tcg,thread=multi"}
	}
	if g.nbd {
		// Nothing boots from it, and its ROM is in a package of its own.
		cpu = append(cpu, "-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,romfile=")
	}
	return append(cpu, "-machine", "q35", "-cpu", "max", "-smp", fmt.Sprint(g.cpus), "-m", fmt.Sprint(g.memory),
		"-nographic", "-nodefaults", "-no-reboot", "-serial", "mon:stdio",
		"-chardev", "socket,id=report,path="+socket, "-serial", "chardev:report",
		"-kernel", g.kernel, "-initrd", g.initrd, "-append", strings.Join(words, " "))
}

// watch waits for the guest's end and asks a silent one what its CPUs do: a
// break on its console and a letter, as magic SysRq has it.
func (g guest) watch(ctx context.Context, r *recorder, stdin io.Writer, done <-chan struct{}) ending {
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	var asked time.Time
	keys := "8lwm" // all of the kernel's words; CPUs; who waits; memory
	for {
		select {
		case <-done:
			return endedItself
		case <-ctx.Done():
			return endedStop
		case <-tick.C:
		}
		silence := r.silence(g.stall)
		switch {
		case time.Since(r.start) > g.limit:
			return endedLate
		case silence > silenceEnd:
			return endedSilent
		case silence > silenceAsk && time.Since(asked) > silenceAsk:
			asked = time.Now()
			for _, key := range keys {
				_, _ = io.WriteString(stdin, "\x01b") // a dead guest is found by its silence
				time.Sleep(100 * time.Millisecond)
				_, _ = io.WriteString(stdin, string(key))
				time.Sleep(400 * time.Millisecond)
			}
			keys = "lt" // and every thread, once: these are many lines
		}
	}
}

// recorder keeps the lines of both ports.
type recorder struct {
	start time.Time // immutable
	echo  io.Writer // immutable

	mu    sync.Mutex
	lines []line    // mu, until the readers are done
	heard time.Time // mu; when the last report came
	stuck progress  // mu; what the last beat said
}

// read keeps lines until the port closes, and hands them on. A guest that is
// killed leaves half a line, which is kept too.
func (r *recorder) read(port string, from io.Reader, heard func(text string)) {
	lines := bufio.NewScanner(from)
	lines.Buffer(make([]byte, 0, 4096), 1<<20)
	for lines.Scan() {
		text := strings.TrimRight(lines.Text(), "\r")
		r.add(line{time.Since(r.start), port, text})
		heard(text)
	}
}

func (r *recorder) add(l line) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(r.lines, l)
	if l.Port == reports {
		r.heard = r.start.Add(l.At)
		if p, ok := readBeat(l.Text); ok {
			r.stuck = p
		}
	}
	if r.echo != nil {
		fmt.Fprintln(r.echo, l)
	}
}

// silence is for how long nothing was heard, of the guest or of everybody in
// it who needs memory. The process that beats is locked: it alone going on
// means little.
func (r *recorder) silence(stall time.Duration) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return max(time.Since(r.heard), r.stuck.pulse, r.stuck.eaters-stall)
}

// String is the form of logs.
func (l line) String() string {
	return fmt.Sprintf("%7.2f %-7s %s", l.At.Seconds(), l.Port, l.Text)
}
