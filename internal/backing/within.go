package backing

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// mostLinks is how many symbolic links the kernel follows in one path.
const mostLinks = 40

// Within says whether a path leads to dir or below it, through whatever links.
// Neither dir nor what is below it is looked at: who asks may be who answers for
// the file system there, and would wait for itself. A path that ends
// nowhere is followed as far as it goes. A mount of the same file system elsewhere
// is not seen.
func Within(path, dir string) (bool, error) {
	if !filepath.IsAbs(path) {
		here, err := os.Getwd()
		if err != nil {
			return false, fmt.Errorf("follow %s: %w", path, err)
		}
		path = here + "/" + path // not cleaned: .. behind a link leaves where that leads
	}
	dir = filepath.Clean(dir)
	if above, err := filepath.EvalSymlinks(filepath.Dir(dir)); err == nil {
		dir = filepath.Join(above, filepath.Base(dir))
	}
	at, links := "/", 0
	for parts := strings.Split(path, "/"); len(parts) > 0; {
		next := filepath.Join(at, parts[0])
		parts = parts[1:]
		if strings.HasPrefix(next+"/", strings.TrimSuffix(dir, "/")+"/") {
			return true, nil
		}
		target, err := os.Readlink(next)
		if err != nil { // no link, or nothing there
			at = next
			continue
		}
		if links++; links > mostLinks {
			return false, fmt.Errorf("follow %s: %w", path, unix.ELOOP)
		}
		if filepath.IsAbs(target) {
			at = "/"
		}
		parts = slices.Concat(strings.Split(target, "/"), parts)
	}
	return false, nil
}
