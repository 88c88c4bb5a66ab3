package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestResizeFileSystem makes a disk larger under a mounted file system, then the
// file system, and both smaller again. The file system is resized at rest, since
// resizing it in use needs CAP_SYS_RESOURCE.
func TestResizeFileSystem(t *testing.T) {
	need(t, "mkfs.ext4", "resize2fs", "e2fsck", "mount", "umount", "blockdev", "/dev/loop-control")
	m := mount(t, "--size", "64M")
	loop := m.attach()
	run(t, "mkfs.ext4", "-q", "-E", "nodiscard", loop)
	fs := t.TempDir()
	run(t, "mount", "-o", "discard", loop, fs)
	mounted := true
	defer func() {
		if mounted {
			run(t, "umount", fs)
		}
	}()
	data := corpus(t)[:8<<20]
	if err := os.WriteFile(filepath.Join(fs, "small"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	if out := zramfs(t, "resize", m.point, "256M"); out != "zram0: 256M\n" {
		t.Errorf("resize says %q", out)
	}
	if got := strings.TrimSpace(run(t, "blockdev", "--getsize64", loop)); got != fmt.Sprint(256<<20) {
		t.Errorf("%s has %s bytes", loop, got)
	}
	if got := m.get("disksize"); got != fmt.Sprintln(256<<20) {
		t.Errorf("disksize is %q", got)
	}
	run(t, "umount", fs)
	mounted = false
	run(t, "e2fsck", "-fp", loop)
	run(t, "resize2fs", loop)
	run(t, "mount", "-o", "discard", loop, fs)
	mounted = true
	for i := range 9 { // more than the file system had room for
		if err := os.WriteFile(filepath.Join(fs, fmt.Sprint(i)), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run(t, "sync", "-f", fs)
	refused(t, 3, []string{"resize", m.point, "64M"}, "page ", "in use", "discard")
	for i := range 9 {
		if err := os.Remove(filepath.Join(fs, fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
	}
	run(t, "umount", fs)
	mounted = false
	run(t, "e2fsck", "-fp", loop)
	run(t, "resize2fs", loop, "60M")
	run(t, "blkdiscard", "--force", "--offset", fmt.Sprint(60<<20), loop)
	if out := zramfs(t, "resize", m.point, "60M"); out != "zram0: 60M\n" {
		t.Errorf("resize says %q", out)
	}
	run(t, "e2fsck", "-fn", loop)
	run(t, "mount", loop, fs)
	mounted = true
	if got, err := os.ReadFile(filepath.Join(fs, "small")); err != nil || string(got) != string(data) {
		t.Errorf("the file is not what it was: %v", err)
	}
	m.check()
}

// TestResizeRefused: what cannot be resized says why, and stays as it was.
func TestResizeRefused(t *testing.T) {
	m := mount(t, "--size", "64M", "--segments", "2")
	refused(t, 2, []string{"resize", m.point, "128M"}, "segments", "swapoff")
	refused(t, 2, []string{"resize", m.point, "32M"}, "segments")
	plain := mount(t, "--size", "16M")
	refused(t, 2, []string{"resize", plain.point, "1T"}, "64G")
	refused(t, 2, []string{"resize", plain.point, "0"}, "zero")
	refused(t, 6, []string{"resize", plain.point, "32M", "--device", "7"}, "zram7")
	page := aligned(t, pageSize)
	page[0] = 1
	writeAt(t, open(t, plain.disk(0), os.O_RDWR), 15<<20, page)
	refused(t, 3, []string{"set", plain.point, "zram0/zramfs/resize", "8M"}, "page 3840 ", "in use")
	if got := m.get("disksize") + plain.get("disksize"); got != fmt.Sprintf("%d\n%d\n", 64<<20, 16<<20) {
		t.Errorf("sizes are %q", got)
	}

	need(t, "mkswap", "swapon", "swapoff", "/dev/loop-control")
	loop := plain.attach()
	run(t, "mkswap", loop)
	run(t, "swapon", "--priority", "0", loop)
	refused(t, 3, []string{"resize", plain.point, "8M"}, "swapoff")
	run(t, "swapoff", loop)
	plain.detach()
}
