// Package host speaks to the machine outside the daemon: loop devices, swap,
// mounts, cgroups, and facts from /proc and /sys.
//
// It holds no locks and no state. It never decides anything: callers say what
// is wanted, it does that one thing or says why it could not. Everything is a
// real system call or a kernel file, and each parser takes the text, so that a
// test can feed it what a machine once said.
package host

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Errors a caller tells apart.
var (
	// ErrNoLoop says that the machine has no loop device to give.
	ErrNoLoop = errors.New("no free loop device")
	// ErrNoDirectIO says that the loop device dropped the direct I/O flag.
	ErrNoDirectIO = errors.New("the loop device does not use direct I/O")
)

// Version is the kernel's release string.
func Version() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return "unknown"
	}
	return unix.ByteSliceToString(u.Release[:])
}

// Capability numbers of linux/capability.h that zramfs asks about.
const (
	CapIPCLock     = 14
	CapSysAdmin    = 21
	CapSysNice     = 23
	CapSysResource = 24
)

// Capable says whether this process holds a capability in its effective set.
func Capable(capability int) bool {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return false
	}
	return capableIn(string(text), capability)
}

// ProcessCapable says whether a process holds a capability in its effective set.
func ProcessCapable(pid, capability int) (bool, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return false, fmt.Errorf("read capabilities: %w", err)
	}
	return capableIn(string(text), capability), nil
}

func capableIn(status string, capability int) bool {
	field, ok := statusField(status, "CapEff")
	if !ok {
		return false
	}
	set, err := strconv.ParseUint(field, 16, 64)
	return err == nil && set&(1<<capability) != 0
}

// statusField finds "Key:   value" in the text of a /proc/PID/status.
func statusField(text, key string) (string, bool) {
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, key+":"); ok {
			return strings.TrimSpace(rest), true
		}
	}
	return "", false
}

// Below says whether path is dir or lies in it. Both are absolute and clean.
func Below(path, dir string) bool {
	return path == dir || dir == "/" || strings.HasPrefix(path, dir+"/")
}

// readTrimmed reads a one-value file of /sys or /proc.
func readTrimmed(elem ...string) (string, error) {
	text, err := os.ReadFile(filepath.Join(elem...))
	return strings.TrimSpace(string(text)), err
}

// writeValue writes a one-value file of /sys or /proc.
func writeValue(path, value string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err // names the operation and the path
}
