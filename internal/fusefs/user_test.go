package fusefs

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// plainUser mounts and uses the tree as a user who is not root, where
// /dev/fuse lets everybody in, in a mount namespace of its own.
const plainUser = `
set -e
mknod -m 666 $DIR/fuse c 10 229
mount --bind $DIR/fuse /dev/fuse
as="setpriv --reuid=65534 --regid=65534 --clear-groups"
chown 65534:65534 $DIR/mnt
mkfifo $DIR/out
` + serverEnv + `=gofuse $as $DIR/server $DIR/mnt >$DIR/out &
exec 3<$DIR/out
read line <&3
[ "$line" = ready ] || { echo "server says $line"; exit 1; }
cat >$DIR/use <<'END'
cd $DIR/mnt/sys/block/zram0
echo 8M >disksize
dd if=$DIR/server of=$DIR/mnt/dev/zram0 bs=1M count=4 oflag=direct conv=notrunc 2>/dev/null
dd if=$DIR/mnt/dev/zram0 bs=1M count=4 iflag=direct 2>/dev/null | cmp -n 4194304 - $DIR/server
stat -c %u:%a disksize
read orig rest <mm_stat
echo $orig
cat reset 2>/dev/null || echo refused
cd /
fusermount3 -u $DIR/mnt
END
$as sh $DIR/use
read line <&3
echo "$line"
`

func TestPlainUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("becoming a plain user needs root")
	}
	for _, tool := range []string{"unshare", "setpriv", "fusermount3", "cmp"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("no %s on this machine", tool)
		}
	}
	dir, err := os.MkdirTemp("", "zramfs-user")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	server, err := os.ReadFile("/proc/self/exe")
	if err == nil {
		err = os.WriteFile(dir+"/server", server, 0o755)
	}
	if err == nil {
		err = os.Mkdir(dir+"/mnt", 0o755)
	}
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("unshare", "--mount", "sh", "-c", plainUser)
	cmd.Env = append(os.Environ(), "DIR="+dir)
	out, err := cmd.CombinedOutput()
	if strings.Contains(string(out), "fuse: Operation not permitted") || strings.Contains(string(out), "unshare:") {
		t.Skipf("no device files or mount namespaces here: %s", out)
	}
	if want := "65534:644\n4194304\nrefused\nok\n"; string(out) != want || err != nil {
		t.Errorf("%v: got\n%s\nwant\n%s", err, out, want)
	}
}
