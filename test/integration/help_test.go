package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zramfs/zramfs/internal/testpages"
)

const pageSize = 4096

// commandTime bounds a command: one that takes longer hangs.
const commandTime = 5 * time.Minute

// result is how a command ended.
type result struct {
	out, err string
	code     int // -1: a signal, or it could not be started
}

// command runs a program to its end.
func command(name string, args ...string) result {
	ctx, cancel := context.WithTimeout(context.Background(), commandTime)
	defer cancel()
	var out, words bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = &out, &words
	cmd.WaitDelay = time.Second // a daemon that keeps the pipes open must not keep us
	err := cmd.Run()
	r := result{out: out.String(), err: words.String(), code: -1}
	if cmd.ProcessState != nil {
		r.code = cmd.ProcessState.ExitCode()
	}
	if err != nil && r.err == "" {
		r.err = err.Error()
	}
	return r
}

// run is command for what must succeed; it gives the output.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	r := command(name, args...)
	if r.code != 0 {
		t.Fatalf("%s %s: exit code %d\n%s%s", filepath.Base(name), strings.Join(args, " "), r.code, r.out, r.err)
	}
	return r.out
}

// zramfs runs the program under test; it must succeed.
func zramfs(t *testing.T, args ...string) string {
	t.Helper()
	return run(t, zramfsBinary, args...)
}

// refused runs the program under test; it must fail with the code, in one
// sentence that has all the words.
func refused(t *testing.T, code int, args []string, words ...string) {
	t.Helper()
	refusal(t, command(zramfsBinary, args...), code, words...)
}

func refusal(t *testing.T, r result, code int, words ...string) {
	t.Helper()
	if r.code != code {
		t.Errorf("exit code %d, want %d: %s%s", r.code, code, r.out, r.err)
	}
	lines := strings.Split(strings.TrimSpace(r.err), "\n")
	last := lines[len(lines)-1]
	if !strings.HasPrefix(last, "zramfs: ") {
		t.Errorf("not a sentence of ours: %q", r.err)
	}
	for _, w := range words {
		if !strings.Contains(last, w) {
			t.Errorf("%q does not say %q", last, w)
		}
	}
}

// mnt is a mount of zramfs that ends with its test.
type mnt struct {
	t     *testing.T
	point string
	told  told
}

// mount serves a disk in a scratch directory. When the test ends every device
// is checked, then it is unmounted and nothing may be left.
func mount(t *testing.T, flags ...string) *mnt {
	t.Helper()
	return mountAt(t, filepath.Join(scratch(t), "mp"), flags...)
}

func mountAt(t *testing.T, point string, flags ...string) *mnt {
	t.Helper()
	if err := os.Mkdir(point, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		t.Fatal(err)
	}
	m := &mnt{t: t, point: point}
	zramfs(t, append([]string{"mount", point}, flags...)...)
	t.Cleanup(m.end)
	return m
}

// end checks and unmounts. A test that ends the mount itself leaves nothing to do;
// if it did not, nobody may be missing.
func (m *mnt) end() {
	m.t.Helper()
	if !m.serving() {
		if !m.told.over {
			m.t.Errorf("nobody serves %s any more", m.point)
		}
		return
	}
	m.check()
	for _, id := range m.devices() {
		if len(loopsOn(m.disk(id))) > 0 {
			zramfs(m.t, "detach", m.point, "--device", strconv.Itoa(id))
		}
	}
	zramfs(m.t, "umount", m.point)
	m.told.over = true
}

// umount unmounts. What crashed until then is seen.
func (m *mnt) umount() {
	m.t.Helper()
	m.crashes()
	zramfs(m.t, "umount", m.point)
	m.told.over = true
}

// serving says whether a daemon answers here.
func (m *mnt) serving() bool {
	return command(zramfsBinary, "get", m.point, "disksize").code == 0
}

// devices are the numbers of the devices there are.
func (m *mnt) devices() (ids []int) {
	m.t.Helper()
	entries, err := os.ReadDir(filepath.Join(m.point, "sys/block"))
	if err != nil {
		m.t.Fatal(err)
	}
	for _, e := range entries {
		id, err := strconv.Atoi(strings.TrimPrefix(e.Name(), "zram"))
		if err != nil {
			m.t.Fatal(err)
		}
		ids = append(ids, id)
	}
	return ids
}

// check compares everything derived with the slot tables, and asks whether a
// page was ever found corrupt or changed while it was promised, and who crashed.
func (m *mnt) check() {
	m.t.Helper()
	m.crashes()
	for _, id := range m.devices() {
		name := fmt.Sprintf("zram%d/", id)
		m.set(name+"zramfs/check", "1")
		if n := m.stat(name+"zramfs/integrity_stat", "corrupt"); n != 0 {
			m.t.Errorf("zram%d: %d pages were found corrupt", id, n)
		}
		if n := m.stat(name+"zramfs/stable_stat", "caught"); n != 0 {
			m.t.Errorf("zram%d: %d pages changed while they were promised not to", id, n)
		}
	}
}

// disk is the path of a device's disk.
func (m *mnt) disk(id int) string { return fmt.Sprintf("%s/dev/zram%d", m.point, id) }

// block is the path of an attribute of zram0 that the kernel has too.
func (m *mnt) block(name string) string { return filepath.Join(m.point, "sys/block/zram0", name) }

func (m *mnt) get(name string) string {
	m.t.Helper()
	return zramfs(m.t, "get", m.point, name)
}

func (m *mnt) set(name, value string) {
	m.t.Helper()
	zramfs(m.t, "set", m.point, name, value)
}

// stat reads one line of an attribute of "name value" lines.
func (m *mnt) stat(attribute, name string) int64 {
	m.t.Helper()
	text := m.get(attribute)
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) == 2 && f[0] == name {
			n, err := strconv.ParseInt(f[1], 10, 64)
			if err != nil {
				m.t.Fatal(err)
			}
			return n
		}
	}
	m.t.Fatalf("%s has no %q:\n%s", attribute, name, text)
	return 0
}

// memory is mm_stat, in its order.
type memory struct {
	orig, compr, used, limit, max, same, compacted, huge, hugeSince int64
}

func (m *mnt) memory() memory {
	m.t.Helper()
	return parseMemory(m.t, m.get("mm_stat"))
}

func parseMemory(t *testing.T, text string) memory {
	t.Helper()
	n := numbers(t, text)
	if len(n) != 9 {
		t.Fatalf("mm_stat has %d columns, want 9: %q", len(n), text)
	}
	return memory{n[0], n[1], n[2], n[3], n[4], n[5], n[6], n[7], n[8]}
}

func numbers(t *testing.T, text string) (all []int64) {
	t.Helper()
	for _, f := range strings.Fields(text) {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			t.Fatalf("%q in %q: %v", f, text, err)
		}
		all = append(all, n)
	}
	return all
}

// attach puts a loop device on the disk.
func (m *mnt) attach() string {
	m.t.Helper()
	return strings.TrimSpace(zramfs(m.t, "attach", m.point))
}

// detach takes it off. A program such as udevd may look at it just now.
func (m *mnt) detach() {
	m.t.Helper()
	await(m.t, "detach", func() bool { return command(zramfsBinary, "detach", m.point).code == 0 })
}

// open opens a file until the test ends; O_CLOEXEC is always set.
func open(t *testing.T, path string, flags int) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, flags, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// readAt reads exactly n bytes.
func readAt(t *testing.T, f *os.File, off int64, n int) []byte {
	t.Helper()
	b := aligned(t, n)
	if got, err := f.ReadAt(b, off); err != nil {
		t.Fatalf("read %d bytes at %d: %d, %v", n, off, got, err)
	}
	return b
}

func writeAt(t *testing.T, f *os.File, off int64, b []byte) {
	t.Helper()
	if n, err := f.WriteAt(b, off); err != nil || n != len(b) {
		t.Fatalf("write %d bytes at %d: %d, %v", len(b), off, n, err)
	}
}

// aligned is memory for O_DIRECT, until the test ends.
func aligned(t *testing.T, n int) []byte {
	t.Helper()
	whole := (n + pageSize - 1) &^ (pageSize - 1)
	b, err := unix.Mmap(-1, 0, whole, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Munmap(b); err != nil {
			t.Error(err)
		}
	})
	return b[:n]
}

// corpus is real pages, one after another.
func corpus(t *testing.T) []byte {
	t.Helper()
	pages := testpages.Pages(t)
	return bytes.Join(pages, nil)
}

// corpusFile is the corpus in a file of the test's.
func corpusFile(t *testing.T) string {
	t.Helper()
	path := filepath.Join(scratch(t), "corpus")
	if err := os.WriteFile(path, corpus(t), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// await gives something that happens soon three minutes.
func await(t *testing.T, what string, happened func() bool) {
	t.Helper()
	for end := time.Now().Add(3 * time.Minute); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if happened() {
			return
		}
	}
	t.Fatalf("it never came: %s", what)
}
