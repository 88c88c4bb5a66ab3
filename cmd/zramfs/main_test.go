package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/zramfs/zramfs/internal/host"
	"github.com/zramfs/zramfs/internal/invariants"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"zramfs": main})
}

// TestScripts runs the command as a user does, with real mounts. A script that
// leaves a mount, swap, a loop device or a process behind fails.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			name := "test-" + strconv.Itoa(os.Getpid()) + "-" + filepath.Base(env.WorkDir)
			env.Setenv("NAME", name)
			rounds := 100
			if invariants.Enabled { // a race build starts slowly
				rounds = 5
			}
			env.Setenv("ROUNDS", strconv.Itoa(rounds))
			deploy, err := filepath.Abs("../../deploy")
			if err != nil {
				return err
			}
			env.Setenv("DEPLOY", deploy)
			env.Defer(func() { sweep(t, name, env.WorkDir) })
			return os.Mkdir(filepath.Join(env.WorkDir, "mp"), 0o755)
		},
		Condition: func(cond string) (bool, error) {
			switch cond {
			case "root":
				return host.Capable(host.CapSysAdmin), nil
			case "fuse":
				_, err := os.Stat("/dev/fuse")
				return err == nil, nil
			case "loop":
				_, err := os.Stat("/dev/loop-control")
				return err == nil, nil
			}
			return false, errors.New("unknown condition " + cond)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"code":    code,
			"damage":  damage,
			"nothing": nothing,
			"await":   await,
		},
	})
}

// code N COMMAND...: the command ends with exit code N; an error is one line
// that begins with "zramfs: ". Its output is in the files out and err.
func code(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	path := args[1]
	if path == "zramfs" {
		path, err = exec.LookPath(filepath.Join(strings.Split(ts.Getenv("PATH"), ":")[0], "zramfs"))
		ts.Check(err)
	}
	var out, words bytes.Buffer
	cmd := exec.Command(path, args[2:]...)
	cmd.Args[0] = args[1]
	cmd.Dir, cmd.Stdout, cmd.Stderr = ts.MkAbs("."), &out, &words
	cmd.Env = append(os.Environ(), "PATH="+ts.Getenv("PATH"))
	err = cmd.Run()
	ts.Check(os.WriteFile(ts.MkAbs("out"), out.Bytes(), 0o600))
	ts.Check(os.WriteFile(ts.MkAbs("err"), words.Bytes(), 0o600))
	if got := cmd.ProcessState.ExitCode(); got != want {
		ts.Fatalf("exit code %d, want %d (%v)\n%s%s", got, want, err, out.Bytes(), words.Bytes())
	}
	ts.Logf("%s", words.Bytes())
	if want == 0 {
		return
	}
	lines := strings.Split(strings.TrimSpace(words.String()), "\n")
	for _, l := range lines {
		if !strings.HasPrefix(l, "zramfs: ") {
			ts.Fatalf("not one line of ours: %q", l)
		}
	}
}

// damage MOUNTPOINT PAGE: a bit of the page's word flips in the memory that the
// worker shares, as bad memory does it.
func damage(ts *testscript.TestScript, _ bool, args []string) {
	text, err := os.ReadFile(filepath.Join(ts.MkAbs(args[0]), "sys/block/zram0/zramfs/daemon_stat"))
	ts.Check(err)
	_, rest, _ := strings.Cut(string(text), "worker_pid ")
	pid, _, _ := strings.Cut(rest, "\n")
	page, err := strconv.Atoi(args[1])
	ts.Check(err)
	files, err := filepath.Glob("/proc/" + pid + "/fd/*")
	ts.Check(err)
	for _, name := range files {
		if info, err := os.Stat(name); err != nil || !info.Mode().IsRegular() {
			continue
		}
		f, err := os.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			continue
		}
		defer f.Close()
		const words = 1<<20 + 4096 // where a disk of up to 64 GiB has its slot table
		at := int64(words + 8*page)
		var magic, b [8]byte
		if _, err := f.ReadAt(magic[:], 0); err != nil || string(magic[:6]) != "zramfs" {
			continue
		}
		if _, err = f.ReadAt(b[:], at); err != nil {
			continue // another region of ours
		}
		if b == [8]byte{} {
			ts.Fatalf("page %d is empty", page)
		}
		b[3] ^= 4
		_, err = f.WriteAt(b[:], at)
		ts.Check(err)
		return
	}
	ts.Fatalf("worker %s has no region of a disk", pid)
}

// await COMMAND...: until the command succeeds, for three minutes.
func await(ts *testscript.TestScript, neg bool, args []string) {
	for end := time.Now().Add(3 * time.Minute); time.Now().Before(end); {
		if err := ts.Exec(args[0], args[1:]...); (err == nil) != neg {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	ts.Fatalf("it never came: %q", args)
}
