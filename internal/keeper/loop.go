package keeper

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/zramfs/zramfs/internal/host"
)

// diskPath is the file of a device's disk.
func diskPath(point string, id int) string {
	return filepath.Join(point, "dev", "zram"+strconv.Itoa(id))
}

// Attach puts a loop device on a disk of a mount and returns its path, with
// warnings. One that is there already is returned as it is.
func Attach(path string, id int) (string, []string, error) {
	m, err := Find(path)
	if err != nil {
		return "", nil, err
	}
	disk := diskPath(m.Point, id)
	info, err := os.Stat(disk)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil, Errorf(CodeNoAttribute, "%s has no device zram%d", m.Point, id)
	}
	if err != nil {
		return "", nil, err
	}
	loops, err := host.LoopsBelow(disk)
	if err != nil {
		return "", nil, err
	}
	if len(loops) > 0 {
		return loops[0].Path, nil, nil
	}
	if info.Size() == 0 {
		return "", nil, Errorf(CodeUsage, "zram%d has no size yet: set its disksize first", id)
	}
	if err := refuseNull(m.Point, "attach"); err != nil {
		return "", nil, err
	}
	if err := checkLoopPolicy(m.Point, id); err != nil {
		return "", nil, err
	}
	loop, warnings, err := host.AttachLoop(disk)
	return loop.Path, warnings, attachError(err)
}

// attachError says what to do when a loop device cannot be had.
func attachError(err error) error {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return &Error{CodeNotPermitted, "attach needs root", err}
	case errors.Is(err, host.ErrNoLoop):
		return &Error{CodeLacking, "no loop device can be had: load the loop module (modprobe loop), " +
			"detach one that is not used, or in a container pass --device /dev/loop-control and loop devices", err}
	}
	return err
}

// checkLoopPolicy rejects the policy that answers EBUSY: a loop device does
// not retry, it reports an I/O error.
func checkLoopPolicy(point string, id int) error {
	policy, err := currentPolicy(point, id)
	if err != nil {
		return err
	}
	if policy == PolicyRefuse {
		return Errorf(CodeUsage, "stable policy %s gives a loop device I/O errors, since it does not retry: "+
			"set zramfs/stable to snapshot or wait first", PolicyRefuse)
	}
	return nil
}

// currentPolicy reads the stable policy of a device: the word in brackets.
func currentPolicy(point string, id int) (string, error) {
	file, err := attributePath(point, attrPolicy, id)
	if err != nil {
		return "", err
	}
	text, err := os.ReadFile(file)
	return bracketed(string(text)), err
}

const attrPolicy = "stable"

// bracketed finds the current choice in "a [b] c"; a lone word is itself.
func bracketed(text string) string {
	words := strings.Fields(text)
	for _, w := range words {
		if strings.HasPrefix(w, "[") && strings.HasSuffix(w, "]") {
			return w[1 : len(w)-1]
		}
	}
	if len(words) == 1 {
		return words[0]
	}
	return ""
}

// Detach takes the loop devices off a mount's disk. In use: CodeBusy, and it
// goes on serving. None there is an error, CodeNotMounted.
func Detach(path string, id int) error {
	m, err := Find(path)
	if err != nil {
		return err
	}
	loops, err := loopsOn(m.Point, id)
	if err != nil {
		return err
	}
	if len(loops) == 0 {
		return Errorf(CodeNotMounted, "no loop device is attached to zram%d of %s", id, m.Point)
	}
	for _, loop := range loops {
		err := host.DetachLoop(loop.Path)
		switch {
		case errors.Is(err, unix.EBUSY):
			return busyLoop(m.Point, loop)
		case errors.Is(err, fs.ErrPermission):
			return &Error{CodeNotPermitted, "detach needs root", err}
		case err != nil:
			return err
		}
	}
	return nil
}

// loopsOn lists the loop devices on a disk and its segments.
func loopsOn(point string, id int) ([]host.Loop, error) {
	loops, err := host.LoopsBelow(point)
	return slices.DeleteFunc(loops, func(l host.Loop) bool { return !onDisk(l.Backing, diskPath(point, id)) }), err
}

func busyLoop(point string, loop host.Loop) error {
	holders, err := host.Holders(point)
	if err != nil {
		return err
	}
	for _, h := range holders {
		if strings.Contains(h, loop.Path+" (") {
			return Errorf(CodeBusy, "%s is in use: %s", loop.Path, h)
		}
	}
	return Errorf(CodeBusy, "%s is in use by a process that has it open", loop.Path)
}
