package keeper

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Checked is what a check found in one disk.
type Checked struct {
	Device       string `json:"device"`
	Pages        int64  `json:"pages"`                   // that hold something
	Same         int64  `json:"same"`                    // of them same-filled
	Stored       int64  `json:"stored"`                  // compressed
	Huge         int64  `json:"huge"`                    // that did not compress
	Staged       int64  `json:"staged"`                  // that are to be compressed
	Backed       int64  `json:"backed"`                  // that are on the backing device, and were not read
	Corrupt      int64  `json:"corrupt"`                 // that cannot be read
	FirstCorrupt *int64 `json:"first_corrupt,omitempty"` // number of the first of them
	IOWaited     int64  `json:"io_waited_us"`            // how long I/O stood still for it
	Error        string `json:"error,omitempty"`         // what is wrong
}

// CheckOptions say how to check.
type CheckOptions struct {
	Device int   // number; negative: all
	Rate   int64 // MiB of pages a second; 0: the worker's own
	Strict bool  // with I/O stopped for the whole time
	// Progress is told now and then how far the check of a disk is, in pages; nil:
	// nobody wants to know.
	Progress func(done, total int64)
}

// Check has the worker of a mount walk disks, beside their I/O: each page is
// read, and then everything derived is compared with the slot table, for which I/O
// waits.
func Check(path string, o CheckOptions) ([]Checked, error) {
	m, err := Find(path)
	if err != nil {
		return nil, err
	}
	ids, err := deviceIDs(m.Point)
	if err != nil {
		return nil, err
	}
	if id := o.Device; id >= 0 {
		if !slices.Contains(ids, id) {
			return nil, Errorf(CodeNoAttribute, "%s has no device zram%d", m.Point, id)
		}
		ids = []int{id}
	}
	all := []Checked{}
	for _, id := range ids {
		name := "zram" + strconv.Itoa(id)
		c, err := checkDisk(filepath.Join(m.Point, blockDir, name, "zramfs/check"), name, o)
		if err != nil {
			return nil, err
		}
		c.Device = name
		all = append(all, c)
	}
	return all, nil
}

// checkDisk checks one disk by its attribute file.
func checkDisk(file, name string, o CheckOptions) (Checked, error) {
	how := "1"
	switch {
	case o.Strict:
		how = "strict"
	case o.Rate > 0:
		how = fmt.Sprintf("rate=%d", o.Rate)
	}
	stop := o.watch(file)
	wrong := store(file, how)
	stop()
	switch {
	case errors.Is(wrong, fs.ErrPermission):
		return Checked{}, &Error{CodeNotPermitted, "a check is for the owner of the mount", wrong}
	case errors.Is(wrong, unix.EAGAIN):
		return Checked{}, &Error{CodeBusy, "another check of " + name + " runs: wait until it has ended", wrong}
	case wrong != nil && !errors.Is(wrong, unix.EIO):
		return Checked{}, fmt.Errorf("check: %w", wrong)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return Checked{}, fmt.Errorf("read what the check found: %w", err)
	}
	c := parseChecked(string(text))
	if wrong != nil && c.Error == "" {
		c.Error = wrong.Error() // the worker was replaced in between
	}
	return c, nil
}

// watch tells the progress of a check until stop is called.
func (o *CheckOptions) watch(file string) (stop func()) {
	if o.Progress == nil {
		return func() {}
	}
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(progressEvery)
		defer tick.Stop()
		for {
			select {
			case <-end:
				return
			case <-tick.C:
			}
			text, _ := os.ReadFile(file)
			if f := pairs(string(text)); f["of"] > 0 {
				o.Progress(f["checked"], f["of"])
			}
		}
	}()
	return func() { close(end); <-ended }
}

// progressEvery is how often people are told how far something is.
const progressEvery = 200 * time.Millisecond

// parseChecked reads the report that the attribute shows.
func parseChecked(text string) (c Checked) {
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		n, _ := strconv.ParseInt(value, 10, 64)
		switch name {
		case "pages":
			c.Pages = n
		case "same":
			c.Same = n
		case "stored":
			c.Stored = n
		case "huge":
			c.Huge = n
		case "staged":
			c.Staged = n
		case "backed":
			c.Backed = n
		case "corrupt":
			c.Corrupt = n
		case "io_waited_us":
			c.IOWaited = n
		case "first_corrupt":
			c.FirstCorrupt = &n
		case "error":
			c.Error = value
		}
	}
	return c
}

// Text is the report for people.
func (c Checked) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %d pages: %d same-filled, %d compressed, %d incompressible, %d staged",
		c.Device, c.Pages, c.Same, c.Stored, c.Huge, c.Staged)
	if c.Backed > 0 {
		fmt.Fprintf(&b, ", %d on the backing device, not read", c.Backed)
	}
	b.WriteString("\n")
	switch {
	case c.FirstCorrupt != nil:
		fmt.Fprintf(&b, "%s: damage: pages that cannot be read: %d, the first is page %d, at byte %d of the disk\n",
			c.Device, c.Corrupt, *c.FirstCorrupt, *c.FirstCorrupt*4096)
		fmt.Fprintf(&b, "    %s\n    They give I/O errors until they are written or discarded; all other pages are whole. "+
			"Copy away what you need, make the disk anew, and test this machine's memory.\n", c.Error)
	case c.Error != "":
		fmt.Fprintf(&b, "%s: damage: every page can be read, but its tables disagree\n", c.Device)
		fmt.Fprintf(&b, "    %s\n    A new worker makes the tables from the pages: zramfs upgrade starts one. "+
			"Please report this as a bug.\n", c.Error)
	default:
		fmt.Fprintf(&b, "%s: no damage\n", c.Device)
	}
	return b.String()
}

// Damaged is the error of a check that found anything wrong, nil if it did not.
func Damaged(all []Checked) error {
	var bad []string
	for _, c := range all {
		if c.Error != "" {
			bad = append(bad, c.Device)
		}
	}
	if bad == nil {
		return nil
	}
	return Errorf(CodeDamaged, "damaged: %s", strings.Join(bad, ", "))
}
