package backing

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestWithin(t *testing.T) {
	top := t.TempDir()
	mount, other := top+"/mount", top+"/other"
	for _, d := range []string{mount + "/dev", other + "/deep"} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for name, target := range map[string]string{
		top + "/into":       mount + "/dev/zram0",
		top + "/whole":      mount,
		top + "/relative":   "other/../mount/dev",
		top + "/twice":      "into",
		top + "/above":      top,
		top + "/beside":     other,
		top + "/deep":       other + "/deep",
		top + "/loop":       "loop",
		top + "/nowhere":    top + "/nothing/there",
		other + "/deep/out": "../../mount",
	} {
		if err := os.Symlink(target, name); err != nil {
			t.Fatal(err)
		}
	}
	for path, want := range map[string]bool{
		mount:                      true,
		mount + "/":                true,
		mount + "/dev/zram0":       true,
		top + "/into":              true,
		top + "/whole/dev/zram0":   true,
		top + "/relative/zram0":    true,
		top + "/twice":             true,
		top + "/above/mount/x":     true,
		top + "/deep/../../mount":  true,
		top + "/deep/out/x":        true,
		top + "/other/../mount/x":  true,
		top + "/beside/x":          false,
		top + "/deep/../mount/x":   false, // other/mount: lexically it would be in the mount
		top + "/nowhere":           false,
		top + "/mounts":            false,
		other:                      false,
		top + "/nothing/mount/dev": false,
	} {
		for _, dir := range []string{mount, mount + "/", top + "/above/mount"} {
			if got, err := Within(path, dir); err != nil || got != want {
				t.Errorf("%s in %s: %t, %v", path, dir, got, err)
			}
		}
	}
	if _, err := Within(top+"/loop/x", mount); !errors.Is(err, unix.ELOOP) {
		t.Errorf("links in a circle: %v", err)
	}
	if _, err := Open(top+"/into", Options{Avoid: mount}); !errors.Is(err, ErrRecursive) {
		t.Errorf("a device behind a link into the mount: %v", err)
	}
	t.Chdir(other)
	if got, err := Within(filepath.Join("..", "mount"), mount); err != nil || !got {
		t.Errorf("a relative path: %t, %v", got, err)
	}
}
