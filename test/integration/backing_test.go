package integration

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// blocksHeld is what bd_stat says: blocks held, read, written.
func (m *mnt) blocksHeld() (held, reads, writes int64) {
	m.t.Helper()
	n := numbers(m.t, m.get("bd_stat"))
	if len(n) != 3 {
		m.t.Fatalf("bd_stat has %d columns", len(n))
	}
	return n[0], n[1], n[2]
}

// loopOf attaches a loop device to a file, until the test ends.
func loopOf(t *testing.T, file string) string {
	t.Helper()
	loop := strings.TrimSpace(run(t, "losetup", "-f", "--show", file))
	t.Cleanup(func() { run(t, "losetup", "-d", loop) })
	return loop
}

// TestBackingSurvives writes a file system's pages back to a file and to a loop
// device, kills workers and the keeper, and finds everything; then the file
// system's own checker does.
func TestBackingSurvives(t *testing.T) {
	for _, kind := range []string{"file", "loop device"} {
		t.Run(kind, func(t *testing.T) {
			need(t, "/dev/loop-control", "mkfs.ext4", "e2fsck")
			needResend(t)
			path := filepath.Join(scratch(t), "backing")
			flags := []string{"--size", "256M", "--backing", path, "--backing-size", "128M"}
			if kind != "file" {
				if err := os.WriteFile(path, nil, 0o600); err != nil {
					t.Fatal(err)
				}
				if err := os.Truncate(path, 128<<20); err != nil {
					t.Fatal(err)
				}
				flags = []string{"--size", "256M", "--backing", loopOf(t, path)}
			}
			m := mount(t, flags...)
			loop := m.attach()
			run(t, "mkfs.ext4", "-q", "-F", loop)
			dir := filepath.Join(scratch(t), "fs")
			mountFS(t, "ext4", loop, dir)
			sums := fill(t, dir, 20<<20)
			run(t, "umount", dir)
			orig := m.memory()
			m.set("idle", "all")
			m.set("writeback", "type=idle")
			now := m.memory()
			held, _, writes := m.blocksHeld()
			if now.orig != orig.orig || now.used > orig.used/4 || held == 0 || held != writes || held*pageSize > orig.orig*3/4 {
				t.Fatalf("%+v became %+v with %d blocks, %d written", orig, now, held, writes)
			}

			k := newKiller(m)
			k.signal(k.worker(), unix.SIGKILL)
			k.survived++
			mountFS(t, "ext4", loop, dir)
			verify(t, dir, sums)
			generation := k.generation()
			k.signal(int(m.stat("zramfs/daemon_stat", "keeper_pid")), unix.SIGKILL)
			await(t, "a keeper that has a worker of its own", func() bool {
				return m.stat("zramfs/crash_stat", "keepers") == 1 && k.generation() > generation
			})
			k.signal(k.worker(), unix.SIGKILL)
			k.survived++
			verify(t, dir, sums)
			for name, sum := range fill(t, filepath.Join(dir, "more"), 5<<20) {
				sums[filepath.Join("more", name)] = sum
			}
			run(t, "sync", "-f", dir)
			m.set("idle", "all")
			m.set("writeback", "idle")
			verify(t, dir, sums)
			run(t, "umount", dir)
			run(t, "e2fsck", "-f", "-n", loop)
			if n := m.stat("zramfs/backing_stat", "damaged"); n != 0 {
				t.Errorf("%d pages came back damaged", n)
			}
			if n := m.stat("zramfs/backing_stat", "encrypted"); n != 1 {
				t.Error("what was written back is not encrypted")
			}
			k.healthy()
			zramfs(t, "detach", m.point)
			m.set("reset", "1")
			if got := m.get("backing_dev"); got != "none\n" {
				t.Errorf("after the reset backing_dev is %q", got)
			}
			if kind == "file" {
				var st unix.Stat_t
				if err := unix.Stat(path, &st); err != nil {
					t.Fatal(err)
				}
				if st.Blocks > 64 {
					t.Errorf("after the reset the file takes %d KiB", st.Blocks/2)
				}
			}
			m.set("backing_dev", flags[3]) // everybody has let it go
			m.set("disksize", "64M")
		})
	}
}

// TestBackingRefused: what cannot be a backing device, and what does not fit to
// another flag, is refused with a reason, and nothing is left.
func TestBackingRefused(t *testing.T) {
	need(t)
	point := filepath.Join(scratch(t), "mp")
	if err := os.Mkdir(point, 0o755); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(scratch(t), "file")
	if err := os.WriteFile(file, make([]byte, 8<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		code  int
		flags []string
		words []string
	}{
		{2, []string{"--backing-size", "1G"}, []string{"--backing"}},
		{2, []string{"--writeback-plain"}, []string{"--backing"}},
		{2, []string{"--backing", "/dev/null"}, []string{"/dev/null", "block device"}},
		{1, []string{"--backing", filepath.Join(point, "..", "none")}, []string{"none"}},
		{2, []string{"--backing", file, "--backing-size", "4M"}, []string{"file", "remove it"}},
	} {
		refused(t, c.code, append([]string{"mount", point, "--size", "64M"}, c.flags...), c.words...)
	}
	m := mountAt(t, point, "--size", "64M", "--backing", file)
	m.set("reset", "1")
	link := filepath.Join(scratch(t), "link") // into the mount: who opened it would wait for itself
	if err := os.Symlink(filepath.Join(point, "dev/zram0"), link); err != nil {
		t.Fatal(err)
	}
	wantErrno(t, "dict="+link, os.WriteFile(m.block("algorithm_params"), []byte("dict="+link), 0), syscall.EINVAL)
	for value, want := range map[string]syscall.Errno{
		"/dev/null": syscall.ENOTBLK, point + "/dev/zram0": syscall.EINVAL, link: syscall.EINVAL, "relative": syscall.EINVAL,
		file + ".none": syscall.ENOENT, filepath.Dir(file): syscall.ENOTBLK,
	} {
		wantErrno(t, "backing_dev "+value, os.WriteFile(m.block("backing_dev"), []byte(value), 0), want)
	}
	m.set("disksize", "64M")
	wantErrno(t, "backing_dev of a disk", os.WriteFile(m.block("backing_dev"), []byte(file), 0), syscall.EBUSY)
	wantErrno(t, "writeback without a device", os.WriteFile(m.block("writeback"), []byte("idle"), 0), syscall.ENODEV)
}

// TestBackingPlain: what is written back lies on the device as it is only if that
// was asked for.
func TestBackingPlain(t *testing.T) {
	need(t)
	for _, plain := range []bool{false, true} {
		path := filepath.Join(scratch(t), "backing")
		flags := []string{"--size", "64M", "--algorithm", "none", "--backing", path, "--backing-size", "8M"}
		if plain {
			flags = append(flags, "--writeback-plain")
		}
		m := mount(t, flags...)
		page := aligned(t, pageSize)
		for i := range page {
			page[i] = byte(i * i >> 3)
		}
		disk := open(t, m.disk(0), os.O_RDWR|unix.O_DIRECT)
		writeAt(t, disk, 5*pageSize, page)
		m.set("writeback", "page_index=5")
		if held, _, _ := m.blocksHeld(); held != 1 {
			t.Fatalf("%d blocks are held", held)
		}
		there, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(there, page) != plain {
			t.Errorf("plain %v: the page is there as it is: %v", plain, !plain)
		}
		if !bytes.Equal(readAt(t, disk, 5*pageSize, pageSize), page) {
			t.Error("the page is another")
		}
		if err := disk.Close(); err != nil {
			t.Fatal(err)
		}
		m.end()
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			t.Fatal(err)
		}
		if st.Blocks != 0 {
			t.Errorf("plain %v: %d KiB are left when the mount is gone", plain, st.Blocks/2)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}
