package host

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Who has a file open is a user of it, and a writer only if it could write.
func TestUsers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		flags         int
		users, writer int
	}{{os.O_RDONLY, 1, 0}, {os.O_RDWR, 1, 1}, {os.O_WRONLY, 1, 1}} {
		f, err := os.OpenFile(path, c.flags, 0)
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("sleep", "60")
		cmd.ExtraFiles = []*os.File{f}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		f.Close()
		for _, writing := range []bool{false, true} {
			want := c.users
			if writing {
				want = c.writer
			}
			got, err := Users([]string{"/nothing", path}, writing)
			if err != nil || len(got) != want {
				t.Errorf("flags %#x, writing %v: %q, %v, want %d", c.flags, writing, got, err, want)
			}
			if len(got) == 1 && !strings.Contains(got[0], path) {
				t.Errorf("%q does not name the file", got[0])
			}
			if got, err := Users([]string{path}, writing, cmd.Process.Pid); err != nil || len(got) != 0 {
				t.Errorf("excepted: %q, %v", got, err)
			}
		}
		cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
	}
}
