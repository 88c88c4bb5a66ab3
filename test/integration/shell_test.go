package integration

import (
	"os/exec"
	"strings"
	"testing"
)

// sourced runs commands in a shell that has read parts of scripts/lib.
func sourced(t *testing.T, parts, commands string) result {
	t.Helper()
	for _, program := range []string{"bash", "jq"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("needs %s: %v", program, err)
		}
	}
	words := "set -euo pipefail\n"
	for _, part := range strings.Fields(parts) {
		words += "source ../../scripts/lib/" + part + "\n"
		if part == "common.sh" { // it goes to the root of the source tree
			words += "cd test/integration\n"
		}
	}
	return command("bash", "-c", words+commands)
}

// TestCleanupFails: a script that could not clean up has failed, and one that
// has failed keeps its exit code.
func TestCleanupFails(t *testing.T) {
	for commands, want := range map[string]int{
		"on_exit true":                           0,
		"on_exit false":                          1,
		"on_exit false; on_exit true":            1,
		"on_exit false; exit 3":                  3,
		"once() { on_exit false; }; scoped once": 1,
	} {
		if r := sourced(t, "common.sh", commands); r.code != want {
			t.Errorf("%s: exit code %d, want %d: %s", commands, r.code, want, r.err)
		}
	}
}
