// Benchrun runs a program for the benchmark and writes down what it reports on
// its standard output, how long it took, and which CPU time it, the processes
// of -pids and the kernel's threads used meanwhile. With -limit the program runs
// in a memory cgroup of its own.
//
// It ends with the program's exit code, and then writes no record but for 0; 2:
// it could not run it.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/docker/go-units"
	"golang.org/x/sys/unix"

	"github.com/zramfs/zramfs/internal/swapload"
	"github.com/zramfs/zramfs/test/benchrun/record"
)

// joinEnv tells the child which cgroup to enter before it becomes the program.
const joinEnv = "BENCHRUN_JOIN"

type options struct {
	out   string
	pids  []int
	limit int64
	dir   string
	args  []string
}

func main() {
	if dir := os.Getenv(joinEnv); dir != "" {
		fail(become(dir, os.Args[1:]))
	}
	o, err := parse()
	if err == nil {
		err = run(o)
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() > 0 {
		os.Exit(exit.ExitCode())
	}
	if err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "benchrun:", err)
	os.Exit(2)
}

func parse() (*options, error) {
	o := &options{}
	var pids, limit string
	flag.StringVar(&o.out, "o", "/dev/stdout", "file for the record")
	flag.StringVar(&pids, "pids", "", "processes that serve the program, separated by commas or spaces")
	flag.StringVar(&limit, "limit", "0", "memory the program may have; 0: no limit")
	flag.StringVar(&o.dir, "C", "", "directory to run the program in")
	flag.Parse()
	if o.args = flag.Args(); len(o.args) == 0 {
		return nil, errors.New("no program to run: expected benchrun [flags] PROGRAM [ARGUMENTS]")
	}
	for _, f := range strings.FieldsFunc(pids, func(r rune) bool { return r == ',' || r == ' ' || r == '\n' }) {
		pid, err := strconv.Atoi(f)
		if err != nil {
			return nil, fmt.Errorf("-pids: %q is no process", f)
		}
		o.pids = append(o.pids, pid)
	}
	var err error
	if o.limit, err = units.RAMInBytes(limit); err != nil || o.limit < 0 {
		return nil, fmt.Errorf("-limit %s: want a size such as 256M, or 0", limit)
	}
	return o, nil
}

func run(o *options) error {
	cmd := exec.Command(o.args[0], o.args[1:]...)
	if o.limit > 0 {
		group, err := swapload.NewMemcg(fmt.Sprintf("zramfs-bench-%d", os.Getpid()), o.limit)
		if err != nil {
			return err
		}
		defer func() {
			if err := group.Remove(); err != nil {
				fmt.Fprintln(os.Stderr, "benchrun:", err)
			}
		}()
		cmd = exec.Command("/proc/self/exe", o.args...)
		cmd.Env = append(os.Environ(), joinEnv+"="+group.Dir())
	}
	var printed bytes.Buffer
	cmd.Dir, cmd.Stdout, cmd.Stderr = o.dir, &printed, os.Stderr
	// Whoever ends this program ends that one; the death signal follows the thread.
	runtime.LockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP)

	before := look(o.pids)
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return err
	}
	go func() {
		for s := range signals {
			_ = cmd.Process.Signal(s)
		}
	}()
	err := cmd.Wait()
	r := record.Run{Seconds: time.Since(start).Seconds()}
	r.CPU = look(o.pids).since(before)
	if err != nil {
		_, _ = os.Stderr.Write(printed.Bytes())
		return err
	}
	r.CPU.Command = (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds()
	r.Report = record.Of(printed.Bytes())
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return os.WriteFile(o.out, append(text, '\n'), 0o644)
}

// become enters the cgroup and is the program from then on.
func become(dir string, args []string) error {
	path, err := exec.LookPath(args[0])
	if err != nil {
		return err
	}
	if err := os.Unsetenv(joinEnv); err != nil {
		return err
	}
	// The kernel should rather kill the load than anything else.
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("1000"), 0)
	if err := swapload.Join(dir); err != nil {
		return err
	}
	return syscall.Exec(path, args, os.Environ())
}
