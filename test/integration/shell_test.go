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

// TestKillWorkerOfNobody: of a dead mount nobody is killed, least of all the
// script and its family, which number 0 means.
func TestKillWorkerOfNobody(t *testing.T) {
	const fake = `build=$(mktemp -d); on_exit rm -rf "$build"
		printf '#!/bin/sh\necho %s\n' "'[{\"worker_pid\": $1}]'" >"$build/zramfs"; chmod +x "$build/zramfs"
		kill() { echo "killed $*"; }
		kill_worker /mnt/z; echo went on`
	for worker, want := range map[string]string{"0": "", "1": "", "null": "", "4711": "killed -9 4711\nwent on\n"} {
		r := sourced(t, "common.sh zramfs.sh", "set -- "+worker+"\n"+fake)
		if r.out != want || (r.code == 0) != (want != "") || want == "" && !strings.Contains(r.err, "nobody serves /mnt/z") {
			t.Errorf("worker %s: exit code %d, %q, %q", worker, r.code, r.out, r.err)
		}
	}
}

// TestContainerLeftovers: what a container left is cleared away and makes the
// script fail; what others attached meanwhile, and what was there before, is not
// touched.
func TestContainerLeftovers(t *testing.T) {
	const fake = `scratch=$(mktemp -d); on_exit rm -rf "$scratch"
		losetup() { if [[ $1 == -d ]]; then echo "detached $2"; else cat "$scratch/now"; fi; }
		swapoff() { echo "swapped off $1"; }
		is_swap() { [[ $1 == /dev/loop3 || $1 == /dev/loop5 ]]; }
		echo "/dev/loop1 5 /tmp/zramfs-test-1/mp/dev/zram0" >"$scratch/now"
		loops >"$scratch/loops"
		printf '/dev/%s\n' "$@" >>"$scratch/now"
		leftovers`
	for _, c := range []struct {
		attached []string
		out      string
		code     int
	}{
		{nil, "", 0},
		{[]string{"loop2 5 /mnt/z/dev/zram0", "loop5 9 /var/swap", "loop6 9 /run/zramfs/swap/dev/zram0"}, "", 0},
		{[]string{"loop3 5 /tmp/zramfs-test-2/mp/dev/zram0", "loop4 5 /dev/zram77 (deleted)", "loop5 9 /var/swap"},
			"swapped off /dev/loop3\ndetached /dev/loop3\ndetached /dev/loop4\n", 1},
		{[]string{"loop4 5 /run/zramfs/itest-77/dev/zram0"}, "detached /dev/loop4\n", 1},
	} {
		set := "set --"
		for _, a := range c.attached {
			set += " '" + a + "'"
		}
		if r := sourced(t, "common.sh docker.sh", set+"\n"+fake); r.code != c.code || r.out != c.out {
			t.Errorf("%q: exit code %d, want %d, %q, want %q: %s", c.attached, r.code, c.code, r.out, c.out, r.err)
		}
	}
}
