package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// zramctl runs util-linux's program, which knows nothing of us, as
// scripts/as-kernel.sh has it: in a mount namespace where our tree is in the
// place of the kernel's.
func (m *mnt) zramctl(args ...string) result {
	m.t.Helper()
	return m.asKernel("zramctl", args...)
}

func (m *mnt) asKernel(program string, args ...string) result {
	m.t.Helper()
	return command("../../scripts/as-kernel.sh", append([]string{m.point, program}, args...)...)
}

// needAsKernel skips where a mount namespace, a tmpfs over /sys or a node of a
// device is not to be had.
func needAsKernel(t *testing.T, m *mnt) {
	t.Helper()
	need(t, "unshare", "zramctl")
	if r := m.asKernel("true"); r.code != 0 {
		t.Skipf("needs a mount namespace with tmpfs and device nodes: %s", r.err)
	}
}

// columns are what zramctl says of a device, a word for each column.
func (m *mnt) columns(device, names string) []string {
	m.t.Helper()
	r := m.zramctl("--raw", "--bytes", "--noheadings", "--output", names, "/dev/"+device)
	if r.code != 0 {
		m.t.Fatalf("zramctl of %s: exit code %d, %s", device, r.code, r.err)
	}
	return strings.Fields(r.out)
}

// TestZramctl has the unmodified zramctl list, make and reset our devices.
func TestZramctl(t *testing.T) {
	need(t)
	m := mount(t, "--size", "64M", "--algorithm", "lz4")
	needAsKernel(t, m)

	t.Run("list", func(t *testing.T) {
		disk := open(t, m.disk(0), os.O_RDWR|unix.O_DIRECT)
		defer disk.Close()
		writeAt(t, disk, 0, counted(t))
		m.set("mem_limit", "32M")
		got := m.memory()
		// Without STREAMS: the kernel has no max_comp_streams either, since 6.15.
		const names = "NAME,DISKSIZE,ALGORITHM,DATA,COMPR,TOTAL,MEM-LIMIT,MEM-USED,ZERO-PAGES,MIGRATED"
		want := strings.Fields(fmt.Sprint("/dev/zram0 ", 64<<20, " lz4 ", got.orig, got.compr, got.used, got.limit, got.max, got.same, got.compacted))
		if text := m.columns("zram0", names); !slices.Equal(text, want) {
			t.Errorf("zramctl: %s are %q, want %q", names, text, want)
		}
		if got.orig != allPages*pageSize || got.same < zeroPages {
			t.Errorf("%+v: the figures compared say nothing", got)
		}
	})

	t.Run("make and reset", func(t *testing.T) {
		// -f: the first device without a size, made if there is none.
		r := m.zramctl("--find", "--size", "48M", "--algorithm", "zstd")
		if r.code != 0 || r.out != "/dev/zram1\n" {
			t.Fatalf("zramctl -f -s -a: %+v", r)
		}
		if text := m.get("zram1/disksize") + m.get("zram1/comp_algorithm"); !strings.HasPrefix(text, "50331648\n") || !strings.Contains(text, "[zstd]") {
			t.Errorf("zramctl made a device with %q", text)
		}
		if r := m.zramctl("--raw", "--noheadings", "-o", "NAME"); strings.Count(r.out, "/dev/zram") != 2 {
			t.Errorf("zramctl lists %q, want two devices", r.out)
		}
		// What cannot be is refused by the kernel's rules, in zramctl's words.
		for _, c := range []struct{ words, args string }{
			{"Invalid argument", "--size 1M --algorithm lz5 /dev/zram1"}, // resets it before
			{"Invalid argument", "--size 0 /dev/zram1"},
			{"No such file", "--size 1M --streams 4 /dev/zram1"}, // max_comp_streams is gone, in the kernel too
			{"No such device", "--size 1M /dev/zram9"},
		} {
			if r := m.zramctl(strings.Fields(c.args)...); r.code == 0 || !strings.Contains(r.err, c.words) {
				t.Errorf("zramctl %s: %+v, want %q", c.args, r, c.words)
			}
		}
		if r := m.zramctl("--size", "8M", "/dev/zram1"); r.code != 0 {
			t.Errorf("zramctl -s of a device that was reset: %+v", r)
		}
		holder := open(t, m.disk(1), os.O_RDONLY)
		if r := m.zramctl("--reset", "/dev/zram1"); r.code == 0 || !strings.Contains(r.err, "busy") {
			t.Errorf("zramctl -r of a device in use: %+v", r)
		}
		holder.Close()
		await(t, "zramctl -r", func() bool { return m.zramctl("--reset", "/dev/zram1").code == 0 })
		// It removes what it can: so it does with the kernel's.
		if ids := m.devices(); len(ids) != 1 && m.get("zram1/initstate") != "0\n" {
			t.Errorf("zramctl -r left devices %v, zram1 with initstate %s", ids, m.get("zram1/initstate"))
		}
	})

	t.Run("mountpoint", func(t *testing.T) {
		need(t, "/dev/loop-control", "mkfs.ext4")
		m.attach()
		dir := filepath.Join(scratch(t), "fs")
		// The node is the loop device, so that mkfs needs no other name either.
		if r := m.asKernel("mkfs.ext4", "-q", "-F", "/dev/zram0"); r.code != 0 {
			t.Fatalf("mkfs.ext4 /dev/zram0: %+v", r)
		}
		mountFS(t, "ext4", loopsOn(m.disk(0))[0], dir)
		if text := m.columns("zram0", "MOUNTPOINT"); !slices.Equal(text, []string{dir}) {
			t.Errorf("zramctl: MOUNTPOINT is %q, want %s", text, dir)
		}
		run(t, "umount", dir)
		m.detach()
	})
}
