package host

import (
	"os"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A process is ending when it is killed and not before, and stays so until it is
// reaped; threads that are stopped do not count as ended.
func TestEnding(t *testing.T) {
	if os.Getenv("HOST_TEST_SLEEP") != "" {
		time.Sleep(time.Hour)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestEnding$") // with the threads of a Go program
	cmd.Env = append(os.Environ(), "HOST_TEST_SLEEP=1")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := cmd.Process.Pid
	for _, sig := range []unix.Signal{0, unix.SIGSTOP} {
		if err := unix.Kill(pid, sig); err != nil {
			t.Fatal(err)
		}
		if ending, err := Ending(pid); ending || err != nil {
			t.Fatalf("after signal %d it is ending: %t, %v", sig, ending, err)
		}
	}
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for {
		ending, err := Ending(pid)
		if err != nil {
			t.Fatal(err)
		}
		if ending {
			break
		}
		time.Sleep(time.Millisecond)
	}
	if cmd.Wait() == nil {
		t.Error("it ended by itself")
	}
	if ending, err := Ending(pid); ending || err == nil {
		t.Errorf("who is reaped is ending: %t, %v", ending, err)
	}
}
