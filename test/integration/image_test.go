package integration

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// imageContent is n bytes of pages of every kind, every tenth empty.
func imageContent(t *testing.T, n int) []byte {
	t.Helper()
	real, b := corpus(t), aligned(t, n)
	state := uint64(n)
	for i := 0; i < n; i += pageSize {
		page := b[i : i+pageSize]
		switch k := i / pageSize; k % 10 {
		case 0:
		case 1, 2:
			for j := 0; j < pageSize; j += 8 {
				binary.LittleEndian.PutUint64(page[j:], uint64(k)<<32+7)
			}
		case 3:
			for j := 0; j < pageSize; j += 8 {
				state = state*6364136223846793005 + 1442695040888963407
				binary.LittleEndian.PutUint64(page[j:], state^state>>29)
			}
		default:
			copy(page, real[i%(len(real)-pageSize):])
			binary.LittleEndian.PutUint64(page, uint64(k))
		}
	}
	return b
}

// fill writes content to the disk; it closes it, so that nobody has it open.
func (m *mnt) fill(content []byte) {
	m.t.Helper()
	f, err := os.OpenFile(m.disk(0), os.O_WRONLY, 0)
	if err != nil {
		m.t.Fatal(err)
	}
	defer f.Close()
	writeAt(m.t, f, 0, content)
}

// holds compares the disk with content, and what is behind it with zeroes.
func (m *mnt) holds(content []byte) {
	m.t.Helper()
	got, err := os.ReadFile(m.disk(0))
	if err != nil {
		m.t.Fatal(err)
	}
	if len(got) < len(content) {
		m.t.Fatalf("the disk has %d bytes, want %d", len(got), len(content))
	}
	for i := 0; i < len(content); i += pageSize {
		if !bytes.Equal(got[i:i+pageSize], content[i:i+pageSize]) {
			m.t.Fatalf("page %d differs", i/pageSize)
		}
	}
	if i := len(content) + len(bytes.TrimLeft(got[len(content):], "\x00")); i != len(content) {
		m.t.Errorf("there is something behind what was restored")
	}
}

// empty says whether a directory has no file.
func empty(t *testing.T, dir string) bool {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	return len(entries) == 0
}

// What is saved of a disk of one algorithm comes back on one of any other, of
// the same size or larger.
func TestSaveRestore(t *testing.T) {
	const size = 8 << 20
	content := imageContent(t, size-3*pageSize)
	for _, c := range []struct{ from, to, size string }{
		{"lz4", "lz4", "8M"}, {"zstd(level=3)", "lz4", "32M"}, {"lz4", "zstd", "9M"}, {"minlz", "none", "8M"},
	} {
		t.Run(c.from+" to "+c.to, func(t *testing.T) {
			dir := scratch(t)
			file := filepath.Join(dir, "image")
			a := mountAt(t, filepath.Join(dir, "a"), "--size", "8M", "--algorithm", c.from, "--write-behind", "16")
			a.fill(content)
			zramfs(t, "save", a.point, file)
			a.holds(content) // saving changes nothing
			if st, err := os.Stat(file); err != nil || st.Mode() != 0o600 {
				t.Errorf("%v, mode %v", err, st.Mode())
			}
			b := mountAt(t, filepath.Join(dir, "b"), "--size", c.size, "--algorithm", c.to)
			if out := zramfs(t, "restore", b.point, file, "--dry-run", "--json"); !strings.Contains(out, fmt.Sprintf("\"size\": %d,", size)) {
				t.Errorf("a dry run says %s", out)
			}
			if n := b.memory().orig; n != 0 {
				t.Errorf("a dry run wrote %d bytes", n)
			}
			zramfs(t, "restore", b.point, file)
			b.holds(content)
			refused(t, 3, []string{"restore", b.point, file}, "holds", "--overwrite")
			refused(t, 2, []string{"save", b.point, file}, "exists already")
			zramfs(t, "restore", b.point, file, "--overwrite")
			b.holds(content)
			// A device that has no size gets the image's.
			b.set("reset", "1")
			zramfs(t, "restore", b.point, file)
			if got := strings.TrimSpace(b.get("disksize")); got != strconv.Itoa(size) {
				t.Errorf("disksize %s, want %d", got, size)
			}
			b.holds(content)
		})
	}
}

// Pages on a backing device are saved like others, and a check counts them.
func TestSaveBacked(t *testing.T) {
	content := imageContent(t, 4<<20)
	dir := scratch(t)
	file := filepath.Join(dir, "image")
	m := mountAt(t, filepath.Join(dir, "mp"), "--size", "8M", "--backing", filepath.Join(dir, "backing"), "--backing-size", "16M")
	m.fill(content)
	m.set("idle", "all")
	m.set("writeback", "idle")
	if n := numbers(t, m.get("bd_stat")); n[0] == 0 {
		t.Fatal("nothing was written back")
	}
	if out := zramfs(t, "check", m.point); !strings.Contains(out, "on the backing device") || !strings.Contains(out, "no damage") {
		t.Errorf("check says %s", out)
	}
	zramfs(t, "save", m.point, file)
	if st, err := os.Stat(file); err != nil || st.Size() > 3<<20 {
		t.Errorf("the image of %d bytes has %d, %v", len(content), st.Size(), err)
	}
	m.set("reset", "1")
	m.set("disksize", "8M")
	zramfs(t, "restore", m.point, file)
	m.holds(content)
}

// A disk that is smaller, or in use, or that does not want to be saved.
func TestSaveRestoreRefused(t *testing.T) {
	dir := scratch(t)
	file := filepath.Join(dir, "image")
	m := mountAt(t, filepath.Join(dir, "mp"), "--size", "4M")
	m.fill(imageContent(t, 1<<20))
	small := mountAt(t, filepath.Join(dir, "small"), "--size", "2M")

	f, err := os.OpenFile(m.disk(0), os.O_RDWR, 0) // the next one reads only
	if err != nil {
		t.Fatal(err)
	}
	other := exec.Command("sleep", "60")
	other.ExtraFiles = []*os.File{f}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	f.Close()
	refused(t, 3, []string{"save", m.point, file}, "can be written", "sleep", "--live")
	zramfs(t, "save", m.point, file, "--live")
	refused(t, 3, []string{"restore", m.point, file, "--overwrite"}, "in use", "sleep")
	other.Process.Kill()
	_ = other.Wait() // it was killed

	refused(t, 2, []string{"restore", small.point, file}, "smaller than the disk that was saved", "need 4194304")
	refused(t, 2, []string{"restore", small.point, "/dev/null"}, "no regular file")
	refused(t, 2, []string{"restore", small.point, corpusFile(t)}, "not an image of zramfs")
	refused(t, 6, []string{"save", m.point, file + "2", "--device", "7"}, "zram7")
	refused(t, 1, []string{"save", m.point, filepath.Join(dir, "no", "file")}, "no such file")
	if n := small.memory().orig; n != 0 {
		t.Errorf("%d bytes were written to a disk that is too small", n)
	}
	if _, err := os.Stat("/dev/loop-control"); err == nil {
		m.attach()
		refused(t, 3, []string{"save", m.point, file + "2"}, "loop")
		m.detach()
	}
}

// Wherever an image is damaged it is refused, and nothing is written.
func TestRestoreDamaged(t *testing.T) {
	dir := scratch(t)
	file := filepath.Join(dir, "image")
	m := mountAt(t, filepath.Join(dir, "mp"), "--size", "4M")
	m.fill(imageContent(t, 200<<10))
	zramfs(t, "save", m.point, file)
	m.set("reset", "1")
	m.set("disksize", "4M")
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	bad := filepath.Join(dir, "bad")
	damaged := func(what string, b []byte, code int) {
		t.Helper()
		if err := os.WriteFile(bad, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if r := command(zramfsBinary, "restore", m.point, bad); r.code != code || !strings.Contains(r.err, "image") {
			t.Errorf("%s: exit code %d, want %d: %s", what, r.code, code, r.err)
		}
		if n := m.memory().orig; n != 0 {
			t.Fatalf("%s: %d bytes were written", what, n)
		}
	}
	flipped := func(at int) []byte {
		b := bytes.Clone(whole)
		b[at] ^= 0x10
		return b
	}
	n := len(whole)
	damaged("magic", flipped(2), 2)
	for what, at := range map[string]int{
		"version": 16, "page size": 20, "pages": 25, "flags": 33, "time": 41, "padding": 50, "header's sum": 61,
		"record's sum": 64, "kind": 68, "number": 69, "zeroes": 70, "length": 73, "page": 77, "payload": 90,
		"a page": n / 2, "the end's page": n - 60 + 12, "count": n - 38, "sum of the whole": n - 5,
	} {
		damaged(what, flipped(at), 10)
	}
	for _, cut := range []int{1, 60, 61, n / 2, n - 64, n - 65} {
		damaged(fmt.Sprintf("%d bytes cut off", cut), whole[:n-cut], 10)
	}
	damaged("nothing", nil, 2)
	damaged("a byte too many", append(bytes.Clone(whole), 0), 10)
	zramfs(t, "restore", m.point, file)
}
