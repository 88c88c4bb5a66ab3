package swapload

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ErrNoMemcg says that this machine gives no memory cgroup to write to.
var ErrNoMemcg = errors.New("no writable memory cgroup")

// Memcg is a memory cgroup of one's own. Immutable.
type Memcg struct {
	dir string
	v2  bool
}

// NewMemcg makes a memory cgroup, version 1 or 2 as the machine has it, at the
// top of the hierarchy that is mounted here, and limits it to limit bytes.
func NewMemcg(name string, limit int64) (*Memcg, error) {
	top, v2, err := findMemcg()
	if err != nil {
		return nil, err
	}
	if v2 {
		// Already on where systemd runs. Where it cannot be switched on, the limit below says so.
		_ = os.WriteFile(filepath.Join(top, "cgroup.subtree_control"), []byte("+memory"), 0)
	}
	g := &Memcg{dir: filepath.Join(top, name), v2: v2}
	if err := os.Mkdir(g.dir, 0o755); err != nil {
		return nil, fmt.Errorf("swapload: %w: %w", ErrNoMemcg, err)
	}
	if err := os.WriteFile(filepath.Join(g.dir, g.limitFile()), []byte(strconv.FormatInt(limit, 10)), 0); err != nil {
		_ = g.Remove()
		return nil, fmt.Errorf("swapload: %w: %w", ErrNoMemcg, err)
	}
	return g, nil
}

func (g *Memcg) limitFile() string {
	if g.v2 {
		return "memory.max"
	}
	return "memory.limit_in_bytes"
}

// Dir is where the cgroup lies.
func (g *Memcg) Dir() string { return g.dir }

// Join moves the calling process into the cgroup at dir. What it has touched
// before stays charged where it was.
func Join(dir string) error {
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0); err != nil {
		return fmt.Errorf("swapload: join %s: %w", dir, err)
	}
	return nil
}

// reclaim has the kernel free what it can of the cgroup at dir. That it cannot
// free all is no error.
func reclaim(dir string) error {
	file, value := filepath.Join(dir, "memory.force_empty"), []byte("0")
	if _, err := os.Stat(file); err != nil {
		file = filepath.Join(dir, "memory.reclaim")
		if value, err = os.ReadFile(filepath.Join(dir, "memory.current")); err != nil {
			return fmt.Errorf("swapload: reclaim: %w", err)
		}
	}
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("swapload: reclaim: %w", err)
	}
	defer f.Close()
	if _, err := unix.Write(int(f.Fd()), value); err != nil && err != unix.EAGAIN && err != unix.EBUSY {
		return fmt.Errorf("swapload: reclaim %s: %w", dir, err)
	}
	return nil
}

// OOMKills counts how often the kernel killed a process in the cgroup because
// it had no memory left.
func (g *Memcg) OOMKills() int {
	file := "memory.oom_control"
	if g.v2 {
		file = "memory.events"
	}
	text, _ := os.ReadFile(filepath.Join(g.dir, file))
	for line := range strings.Lines(string(text)) {
		if n, ok := strings.CutPrefix(strings.TrimSpace(line), "oom_kill "); ok {
			kills, _ := strconv.Atoi(n)
			return kills
		}
	}
	return 0
}

// Remove ends the cgroup. Its processes have ended; the kernel may need a
// moment to notice.
func (g *Memcg) Remove() error {
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		err := os.Remove(g.dir)
		if err == nil || errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) || time.Now().After(end) {
			return fmt.Errorf("swapload: remove memory cgroup: %w", err)
		}
	}
}

// findMemcg finds the mounted memory hierarchy.
func findMemcg() (top string, v2 bool, err error) {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return "", false, fmt.Errorf("swapload: %w", err)
	}
	for line := range strings.Lines(string(mounts)) {
		f := strings.Fields(line)
		if len(f) < 4 {
			continue
		}
		switch f[2] {
		case "cgroup":
			for opt := range strings.SplitSeq(f[3], ",") {
				if opt == "memory" {
					return f[1], false, nil
				}
			}
		case "cgroup2":
			has, _ := os.ReadFile(filepath.Join(f[1], "cgroup.controllers"))
			for _, name := range strings.Fields(string(has)) {
				if name == "memory" {
					return f[1], true, nil
				}
			}
		}
	}
	return "", false, fmt.Errorf("swapload: %w: none is mounted", ErrNoMemcg)
}
