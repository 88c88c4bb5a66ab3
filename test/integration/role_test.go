package integration

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A test that needs processes of its own starts this binary again: roleEnv
// says as what, roleArgs with which arguments.
const (
	roleEnv  = "ZRAMFS_TEST_ROLE"
	roleArgs = "ZRAMFS_TEST_ARGS"
)

// playRole is such a process, and gives its exit code.
func playRole(role string) int {
	args := strings.Split(os.Getenv(roleArgs), "\n")
	err := fmt.Errorf("no role %q", role)
	switch role {
	case roleSectors:
		err = writeSectors(args)
	case roleStream:
		stop := make(chan os.Signal, 1)
		signal.Notify(stop, unix.SIGTERM)
		err = stream(args, stop)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// actor makes a process that plays a role; the caller starts it.
func actor(t *testing.T, role string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), roleEnv+"="+role, roleArgs+"="+strings.Join(args, "\n"))
	cmd.Stderr = os.Stderr
	return cmd
}

// hasLine says whether a text has a line.
func hasLine(text, line string) bool {
	for l := range strings.Lines(text) {
		if strings.TrimSpace(l) == line {
			return true
		}
	}
	return false
}
