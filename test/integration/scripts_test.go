package integration

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// The kernel's own tests of zram, as LTP (zram01 to zram03) and kselftest
// (zram01, zram02) have them: the same steps by the same files. They fill with
// zeros, which any compressor makes small; here it is real data.

// script is one run of the steps, with the sizes of one of the suites.
type script struct {
	name       string
	size       int64
	algorithms []string // a device each; nil: every one that comp_algorithm lists
	fs         []string // by device, the last for all that follow
}

var suites = []script{
	{name: "ltp", size: 25 << 20, fs: []string{"ext2", "ext3", "ext4"}},
	{name: "kselftest", size: 2 << 20, algorithms: []string{"lz4", "zstd"}, fs: []string{"ext4"}},
}

// steps is a running script.
type steps struct {
	*mnt
	script
	ids []int
}

// TestKernelScripts runs both suites at once, each on a mount of its own.
func TestKernelScripts(t *testing.T) {
	need(t, "/dev/loop-control", "mkfs.ext2", "mkfs.ext3", "mkfs.ext4", "mkswap", "swapon", "swapoff")
	for _, part := range []struct {
		name string
		do   func(s *steps)
	}{
		{"file systems", (*steps).fileSystems},
		{"swap", (*steps).swap},
		{"content", (*steps).content},
	} {
		t.Run(part.name, func(t *testing.T) {
			var all []*steps
			for _, s := range suites {
				dir := scratch(t)
				m := mountAt(t, filepath.Join(dir, "mp"), "--size", "1M")
				await(t, "reset", func() bool { return store(m.block("reset"), "1") == nil }) // as modprobe leaves it
				run := &steps{mnt: m, script: s, ids: []int{0}}
				if run.algorithms == nil {
					run.algorithms = strings.Fields(strings.NewReplacer("[", "", "]", "").Replace(m.get("comp_algorithm")))
					// One that does not compress cannot be below its limit.
					run.algorithms = slices.DeleteFunc(run.algorithms, func(a string) bool { return a == "none" })
				}
				for range run.algorithms[1:] {
					id, err := strconv.Atoi(strings.TrimSpace(m.get("hot_add")))
					if err != nil {
						t.Fatal(err)
					}
					run.ids = append(run.ids, id)
				}
				all = append(all, run)
			}
			t.Run("two at once", func(t *testing.T) {
				for _, s := range all {
					t.Run(s.name, func(t *testing.T) {
						t.Parallel()
						s.mnt = &mnt{t: t, point: s.point}
						part.do(s)
					})
				}
			})
		})
	}
}

// attr is the path of an attribute of a device.
func (s *steps) attr(id int, name string) string {
	return fmt.Sprintf("%s/sys/block/zram%d/%s", s.point, id, name)
}

func (s *steps) cat(id int, name string) string {
	s.t.Helper()
	text, err := os.ReadFile(s.attr(id, name))
	if err != nil {
		s.t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

func (s *steps) echo(id int, name, value string) {
	s.t.Helper()
	if err := store(s.attr(id, name), value+"\n"); err != nil {
		s.t.Fatalf("%s = %s: %v", s.attr(id, name), value, err)
	}
}

// setUp gives each device its algorithm, size and limit, and reads them back.
func (s *steps) setUp() {
	s.t.Helper()
	for i, id := range s.ids {
		s.echo(id, "comp_algorithm", s.algorithms[i])
		if got := s.cat(id, "comp_algorithm"); !slices.Contains(strings.Fields(got), "["+s.algorithms[i]+"]") {
			s.t.Errorf("zram%d: comp_algorithm is %q, want %s", id, got, s.algorithms[i])
		}
		s.echo(id, "disksize", fmt.Sprint(s.size))
		s.echo(id, "mem_limit", fmt.Sprintf("%dM", s.size>>20))
		if size, limit := s.cat(id, "disksize"), parseMemory(s.t, s.cat(id, "mm_stat")).limit; size != fmt.Sprint(s.size) || limit != s.size {
			s.t.Errorf("zram%d: disksize %s, limit %d, want %d", id, size, limit, s.size)
		}
	}
}

// attachTo puts a loop device on a disk: the one step that the kernel's zram
// does not need.
func (s *steps) attachTo(id int) string {
	s.t.Helper()
	return strings.TrimSpace(zramfs(s.t, "attach", s.point, "--device", fmt.Sprint(id)))
}

// tearDown takes the loop devices off, resets, and looks whether nothing is left.
func (s *steps) tearDown() {
	s.t.Helper()
	s.check()
	for _, id := range s.ids {
		if loopsOn(s.disk(id)) != nil {
			await(s.t, "detach", func() bool { return command(zramfsBinary, "detach", s.point, "--device", fmt.Sprint(id)).code == 0 })
		}
		await(s.t, "reset", func() bool { return store(s.attr(id, "reset"), "1\n") == nil })
		if size, state, stat := s.cat(id, "disksize"), s.cat(id, "initstate"), s.cat(id, "mm_stat"); size != "0" || state != "0" ||
			slices.ContainsFunc(numbers(s.t, stat), func(n int64) bool { return n != 0 }) {
			s.t.Errorf("zram%d after reset: disksize %s, initstate %s, mm_stat %s", id, size, state, stat)
		}
	}
}

// fileSystems makes one on each device, fills it up, and compares what it
// holds with what it takes.
func (s *steps) fileSystems() {
	t := s.t
	s.setUp()
	pages := corpus(t)
	for i, id := range s.ids {
		kind, loop := s.fs[min(i, len(s.fs)-1)], s.attachTo(id)
		run(t, "mkfs."+kind, "-q", "-F", "-m", "0", loop)
		dir := filepath.Join(filepath.Dir(s.point), fmt.Sprint("fs", id))
		mountFS(t, kind, loop, dir)
		file := filepath.Join(dir, "filled")
		f, err := os.Create(file)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for err == nil && n < len(pages) {
			var more int
			more, err = f.Write(pages[n:min(n+1<<20, len(pages))])
			n += more
		}
		if full := errors.Is(err, unix.ENOSPC); err != nil && !full || !full && n < len(pages) || int64(n) < s.size/2 {
			t.Errorf("zram%d: %s of %d bytes took %d: %v", id, kind, s.size, n, err)
		}
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			t.Errorf("zram%d: %v", id, err)
		}
		run(t, "umount", dir)
		mountFS(t, kind, loop, dir)
		if got, err := os.ReadFile(file); err != nil || !bytes.Equal(got, pages[:n]) {
			t.Errorf("zram%d: the file came back as %d bytes of %d, %v", id, len(got), n, err)
		}
		run(t, "umount", dir)
		m := parseMemory(t, s.cat(id, "mm_stat"))
		// In a megabyte most size classes have but a few objects in their pages.
		used := m.used
		if s.size < 16<<20 {
			used = m.compr
		}
		if m.orig < int64(n) || m.orig*2 < used*3 || m.used > s.size {
			t.Errorf("zram%d, %s: too much for real data: %+v", id, s.algorithms[i], m)
		}
	}
	s.tearDown()
}

// swap makes each device swap, and no swap again.
func (s *steps) swap() {
	t := s.t
	s.setUp()
	for _, id := range s.ids {
		loop := s.attachTo(id)
		run(t, "mkswap", loop)
		run(t, "swapon", "--priority", "0", loop)
		text, err := os.ReadFile("/proc/swaps")
		run(t, "swapoff", loop)
		if err != nil || !strings.Contains(string(text), loop+" ") {
			t.Errorf("zram%d: %s is not swap: %v\n%s", id, loop, err, text)
		}
	}
	s.tearDown()
}

// content writes whole disks with write(2) and looks at them through a mapping;
// after reset nothing of it is left.
func (s *steps) content() {
	t := s.t
	s.setUp()
	pages := corpus(t)
	n := int(min(s.size, int64(len(pages))))
	for i, id := range s.ids {
		f := open(t, s.attachTo(id), os.O_RDWR) // a file with direct I/O has no shared mapping
		writeAt(t, f, 0, pages[:n])
		seen, err := unix.Mmap(int(f.Fd()), 0, n, unix.PROT_READ, unix.MAP_SHARED)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(seen, pages[:n]) {
			t.Errorf("zram%d, %s: not what was written", id, s.algorithms[i])
		}
		if err := unix.Munmap(seen); err != nil {
			t.Error(err)
		}
		f.Close()
		if m := parseMemory(t, s.cat(id, "mm_stat")); m.orig != int64(n) {
			t.Errorf("zram%d: orig_data_size %d, want %d", id, m.orig, n)
		}
	}
	s.tearDown()
	for _, id := range s.ids {
		s.echo(id, "disksize", fmt.Sprint(s.size))
		if !bytes.Equal(readAt(t, open(t, s.disk(id), os.O_RDONLY), 0, n), make([]byte, n)) {
			t.Errorf("zram%d: something is left after reset", id)
		}
	}
}
