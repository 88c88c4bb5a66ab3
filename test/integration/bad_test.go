package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Bad input that needs nothing but the command is in cmd/zramfs/testdata: this
// is what takes a machine to be bad.

// hidden runs zramfs in a mount namespace where something has been done first.
func hidden(first string, args ...string) result {
	script := first + ` || exit 99; exec "$@"`
	return command("unshare", append([]string{"-m", "sh", "-c", script, "sh", zramfsBinary}, args...)...)
}

// TestBadFuse mounts where /dev/fuse is missing, is something else, and may
// not be opened.
func TestBadFuse(t *testing.T) {
	need(t, "unshare", "setpriv")
	point := filepath.Join(scratch(t), "mp")
	if err := os.Mkdir(point, 0o777); err != nil {
		t.Fatal(err)
	}
	for _, transport := range transports {
		mount := []string{"mount", point, "--transport", transport}
		refusal(t, hidden("mount -t tmpfs none /dev", mount...), 8, "/dev/fuse is not there", "modprobe fuse")
		refusal(t, hidden("mount --bind /dev/null /dev/fuse", mount...), 8, "/dev/fuse is not the fuse device")
	}
	if _, err := exec.LookPath("fusermount3"); err != nil {
		t.Skip("needs fusermount3")
	}
	plain := readable(t)
	refusal(t, hidden("chmod 666 /dev/null; mount -t tmpfs -o mode=755 none /mnt && mknod -m 600 /mnt/fuse c 10 229 && "+
		"mount --bind /mnt/fuse /dev/fuse && set -- setpriv --reuid 65534 --regid 65534 --clear-groups "+plain+" mount "+point),
		5, "/dev/fuse may not be opened")
}

// readable is a copy of the program where every user may run it.
func readable(t *testing.T) string {
	t.Helper()
	dir := scratch(t)
	run(t, "chmod", "755", dir)
	path := filepath.Join(dir, "zramfs")
	run(t, "install", "-m", "755", zramfsBinary, path)
	return path
}

// TestBadLoop attaches and swaps where no loop device is to be had: nothing
// changes, and swapon takes back what it did.
func TestBadLoop(t *testing.T) {
	need(t, "unshare", "/dev/loop-control")
	m := mount(t, "--size", "1M")
	hide := "mount --bind /dev/null /dev/loop-control"
	refusal(t, hidden(hide, "attach", m.point), 8, "no loop device can be had", "modprobe loop")
	m.set("zramfs/stable", "refuse")
	refused(t, 2, []string{"attach", m.point}, "stable policy refuse", "does not retry")
	if len(loopsOn(m.point)) != 0 {
		t.Error("a loop device is attached all the same")
	}
}

// TestUnlocked mounts without the right to lock more memory than a little. It
// serves, and says so.
func TestUnlocked(t *testing.T) {
	need(t, "setpriv", "prlimit")
	m := &mnt{t: t, point: filepath.Join(scratch(t), "mp")}
	if err := os.Mkdir(m.point, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.end)
	r := command("prlimit", "--memlock=65536", "setpriv", "--bounding-set=-ipc_lock", "--inh-caps=-ipc_lock",
		zramfsBinary, "mount", m.point, "--size", "16M", "--write-behind", "8")
	if r.code != 0 || !strings.Contains(r.err, "zramfs: warning: ") || !strings.Contains(r.err, "lock memory") {
		t.Fatalf("exit code %d, %q; want it to go on and to warn", r.code, r.err)
	}
	if got := m.get("zramfs/daemon_stat"); !hasLine(got, "memory_locked no") {
		t.Errorf("daemon_stat does not say that memory is not locked:\n%s", got)
	}
	text := zramfs(t, "status", m.point, "--json")
	if !strings.Contains(text, `"memory_locked": false`) || !strings.Contains(text, "lock memory") {
		t.Errorf("status does not say that memory is not locked:\n%s", text)
	}
	source := corpus(t)[:8<<20]
	disk := open(t, m.disk(0), os.O_RDWR)
	writeAt(t, disk, 0, source)
	if string(readAt(t, disk, 0, len(source))) != string(source) {
		t.Error("what was written is not read back")
	}
	disk.Close()
}

// TestPlainUser mounts, copies and unmounts as nobody, over fusermount3.
func TestPlainUser(t *testing.T) {
	need(t, "unshare", "setpriv", "fusermount3", "cmp", "dd")
	source, program := corpusFile(t), readable(t)
	run(t, "chmod", "755", filepath.Dir(source))
	dir := scratch(t)
	run(t, "chmod", "777", dir)
	// The one thing an administrator does: /dev/fuse may be opened by all.
	const admin = `set -e
		mount -t tmpfs -o mode=755 none /mnt
		mknod -m 666 /mnt/fuse c 10 229
		mount --bind /mnt/fuse /dev/fuse
		exec setpriv --reuid 65534 --regid 65534 --clear-groups sh -e -c "$@"`
	const user = `zramfs=$1 source=$2 mp=$3/mp
		mkdir $mp
		$zramfs mount $mp --size 64M --write-behind 16
		trap "$zramfs umount $mp" EXIT
		disk=$mp/dev/zram0
		dd if=$source of=$disk bs=100k conv=notrunc,fsync status=none
		cmp -n $(stat -c %s $source) $source $disk
		fallocate -p -o 0 -l 4096 $disk
		cmp -n 4096 $disk /dev/zero
		cmp -n 8192 -i 4096 $source $disk
		$zramfs status $mp --raw -n -o NAME,DISKSIZE,TRANSPORT,DATA -b
		$zramfs save $mp $3/image >/dev/null
		fallocate -p -o 0 -l 1048576 $disk
		$zramfs restore $mp $3/image --overwrite >/dev/null
		cmp -n 4096 $disk /dev/zero
		cmp -n 1048576 -i 4096 $source $disk
		$zramfs set $mp zramfs/check 1
		! $zramfs attach $mp
		$zramfs swapon && exit 1
		[ $? = 5 ]`
	r := command("unshare", "-m", "sh", "-c", admin, "sh", user, "sh", program, source, dir)
	want := "zram0 67108864 gofuse 33562624\n"
	if r.code != 0 || r.out != want {
		t.Errorf("exit code %d, %q, want %q\n%s", r.code, r.out, want, r.err)
	}
	for _, words := range []string{"attach needs root", "swap needs root"} {
		if !strings.Contains(r.err, words) {
			t.Errorf("%q does not say %q", r.err, words)
		}
	}
}
