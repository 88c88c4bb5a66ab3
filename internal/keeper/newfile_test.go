package keeper

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// A file that is kept is there, whole and its owner's alone; one that is dropped
// leaves nothing. So it is with a name of its own from the start, too.
func TestNewFile(t *testing.T) {
	for _, named := range []bool{false, true} {
		dir := t.TempDir()
		begin := func(name string) *wholeFile {
			t.Helper()
			path := filepath.Join(dir, name)
			f, err := newFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if named { // as where there is no O_TMPFILE
				f.drop()
				temp, err := os.CreateTemp(dir, ".x.*.part")
				if err != nil {
					t.Fatal(err)
				}
				f = &wholeFile{File: temp, path: path, temp: temp.Name()}
			}
			if _, err := f.WriteString(name); err != nil {
				t.Fatal(err)
			}
			return f
		}
		kept, dropped, late := begin("kept"), begin("dropped"), begin("kept")
		if err := kept.keep(); err != nil {
			t.Fatal(err)
		}
		kept.drop()
		dropped.drop()
		if err := late.keep(); err == nil {
			t.Error("a file that came meanwhile is replaced")
		}
		late.drop()
		entries, err := os.ReadDir(dir)
		if err != nil || len(entries) != 1 {
			t.Errorf("named %v: %v, %v", named, entries, err)
		}
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(dir, "kept"), &st); err != nil || st.Mode&0o777 != 0o600 || st.Nlink != 1 {
			t.Errorf("named %v: %v, mode %o, %d links", named, err, st.Mode, st.Nlink)
		}
		if b, _ := os.ReadFile(filepath.Join(dir, "kept")); string(b) != "kept" {
			t.Errorf("it holds %q", b)
		}
		if _, err := newFile(filepath.Join(dir, "kept")); ExitCode(err) != CodeUsage {
			t.Errorf("a file that is there: %v", err)
		}
	}
	if _, err := newFile(filepath.Join(t.TempDir(), "no", "file")); err == nil {
		t.Error("a file in no directory")
	}
}
