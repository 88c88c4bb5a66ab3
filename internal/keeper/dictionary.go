package keeper

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/zramfs/zramfs/internal/backing"
)

// checkDictionary makes the path of a dictionary absolute: the daemon is elsewhere.
func (c *Config) checkDictionary() error {
	if c.Dictionary == "" {
		return nil
	}
	if len(c.Recompress) == 0 {
		return Errorf(CodeUsage, "--dictionary is for --recompress: name an algorithm to compress with again, such as zstd(level=7)")
	}
	path, err := filepath.Abs(c.Dictionary)
	if err != nil {
		return &Error{CodeUsage, "dictionary " + c.Dictionary, err}
	}
	c.Dictionary = path
	return nil
}

// readDictionary reads the file that was named to algorithm_params, up to a byte
// more than the limit, which is too many. Not one of the mount: it is the worker
// that would have to answer, who waits here.
func (w *worker) readDictionary(path string, limit int64) ([]byte, error) {
	if !filepath.IsAbs(path) {
		return nil, fmt.Errorf("%s: need a path that begins with /", path)
	}
	if within, err := backing.Within(path, w.task.Config.Mountpoint); err != nil {
		return nil, err
	} else if within {
		return nil, fmt.Errorf("%s: need a file that does not lie on the mount itself", path)
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // a FIFO would wait for a writer
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil {
		return nil, err
	} else if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: need a regular file", path)
	}
	return io.ReadAll(io.LimitReader(f, limit+1))
}
