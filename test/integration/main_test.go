// Package integration tests zramfs from outside: the program as a user runs it,
// on real mounts, with loop devices, file systems and swap on it.
//
// The tests need root. Each cleans up after itself, and fails if a mount, a
// loop device, a process or a descriptor of its own is left; each ends with
// zramfs/check on every device that is left. They never run in parallel. With
// ZRAMFS_LONG=1 they take more rounds and bigger sizes.
//
// ZRAMFS_BINARY and SWAPPER_BINARY name the programs; without them TestMain
// builds both. ZRAMFS_CONTAINER=1 says that this is a container.
package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/zramfs/zramfs/internal/host"
)

// The programs under test, set once by TestMain.
var zramfsBinary, swapperBinary string

func TestMain(m *testing.M) {
	if role := os.Getenv(roleEnv); role != "" {
		os.Exit(playRole(role))
	}
	os.Exit(testAll(m))
}

func testAll(m *testing.M) int {
	zramfsBinary, swapperBinary = os.Getenv("ZRAMFS_BINARY"), os.Getenv("SWAPPER_BINARY")
	dir, err := os.MkdirTemp("", "zramfs-build-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	for _, p := range []struct {
		binary *string
		source string
	}{{&zramfsBinary, "cmd/zramfs"}, {&swapperBinary, "test/swapper"}} {
		if *p.binary != "" {
			continue
		}
		*p.binary = filepath.Join(dir, filepath.Base(p.source))
		build := exec.Command("go", "build", "-o", *p.binary, "../../"+p.source)
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build %s: %v\n%s", p.source, err, out)
			return 1
		}
	}
	return m.Run()
}

// long chooses between what takes seconds and what ZRAMFS_LONG=1 asks for.
func long[T any](short, long T) T {
	if os.Getenv("ZRAMFS_LONG") == "1" {
		return long
	}
	return short
}

// inContainer says that the machine's own devices are out of reach.
func inContainer() bool { return os.Getenv("ZRAMFS_CONTAINER") == "1" }

// need skips a test on a machine that lacks something, and says what: "root",
// a path of a device, or a program.
func need(t *testing.T, things ...string) {
	t.Helper()
	for _, thing := range append([]string{"root", "/dev/fuse"}, things...) {
		var err error
		switch {
		case thing == "root":
			if !host.Capable(host.CapSysAdmin) {
				err = fmt.Errorf("root (CAP_SYS_ADMIN)")
			}
		case filepath.IsAbs(thing):
			_, err = os.Stat(thing)
		default:
			_, err = exec.LookPath(thing)
		}
		if err != nil {
			t.Skipf("needs %s: %v", thing, err)
		}
	}
}
