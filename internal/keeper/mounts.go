package keeper

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zramfs/zramfs/internal/host"
)

// Find resolves what a user calls a mount: its mount point, or a name under
// /run/zramfs. CodeNotMounted if no zramfs is there.
func Find(path string) (host.Mount, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return host.Mount{}, &Error{CodeNotMounted, path, err}
	}
	candidates := []string{abs}
	// A dead mount cannot be resolved, but its parent can.
	if dir, err := filepath.EvalSymlinks(filepath.Dir(abs)); err == nil {
		candidates = append(candidates, filepath.Join(dir, filepath.Base(abs)))
	}
	if resolved, err := filepath.EvalSymlinks(abs); err == nil {
		candidates = append(candidates, resolved)
	}
	if !strings.Contains(path, "/") {
		candidates = append(candidates, filepath.Join(RunDir, path))
	}
	for _, point := range candidates {
		m, ok, err := host.MountAt(point)
		if err != nil {
			return host.Mount{}, err
		}
		if ok && m.Type == host.FSType {
			return m, nil
		}
	}
	return host.Mount{}, Errorf(CodeNotMounted, "no zramfs is mounted on %s: zramfs status lists those that are", path)
}

// MountPoints lists where zramfs is mounted.
func MountPoints() ([]string, error) {
	mounts, err := host.Mounts()
	if err != nil {
		return nil, err
	}
	var points []string
	for _, m := range mounts {
		if m.Type == host.FSType {
			points = append(points, m.Point)
		}
	}
	return points, nil
}

// Timings of umount.
const (
	umountTries = 20 // against passers-by, such as udev looking at a new device
	umountPause = 50 * time.Millisecond
)

// Umount ends a mount and waits until keeper and worker are gone. In use:
// CodeBusy, naming who holds it, and it goes on serving. A mount whose daemon
// is gone is cleared away.
func Umount(path string) error {
	m, err := Find(path)
	if err != nil {
		return err
	}
	daemon, err := readDaemon(m.Point)
	if isDead(err) {
		return errors.Join(host.ReleaseLoops(m.Point), host.Unmount(m.Point, true))
	}
	if err != nil {
		return err
	}
	// Watched before the mount goes: a process number alone may be reused.
	var watches []*os.File
	for _, pid := range []int{daemon.Worker, daemon.Keeper} {
		watch, err := host.Watch(pid)
		if err != nil {
			return err
		}
		if watch != nil {
			defer watch.Close()
			watches = append(watches, watch)
		}
	}
	if err := unmountUnused(m.Point, daemon.Keeper, daemon.Worker); err != nil {
		return err
	}
	for _, watch := range watches {
		if !host.Gone(watch, int(2*drainTime/time.Millisecond)) {
			return Errorf(CodeFailure, "%s is unmounted, but its daemon (keeper %d, worker %d) has not ended",
				m.Point, daemon.Keeper, daemon.Worker)
		}
	}
	return nil
}

// unmountUnused unmounts unless somebody holds it: who is found in two looks in
// a row is no passer-by.
func unmountUnused(point string, daemon ...int) error {
	var before []string
	for range umountTries {
		err := host.Unmount(point, false)
		if !errors.Is(err, unix.EBUSY) {
			if errors.Is(err, fs.ErrPermission) {
				return &Error{CodeNotPermitted, "umount needs root, or the user who mounted", err}
			}
			return err
		}
		holders, err := host.Holders(point, daemon...)
		if err != nil || len(holders) > 0 && slices.Equal(holders, before) {
			break
		}
		before = holders
		time.Sleep(umountPause)
	}
	return busyError(point, daemon...)
}

// isDead says whether an error from a mount means that no daemon serves it.
func isDead(err error) bool {
	return errors.Is(err, unix.ENOTCONN) || errors.Is(err, unix.ECONNABORTED)
}

// daemon is what daemon_stat says.
type daemon struct {
	Keeper, Worker, Generation int
	Transport, Reason          string
	Locked                     bool
	Warnings                   []string
}

// readDaemon reads daemon_stat of a mount, from its lowest device.
func readDaemon(point string) (daemon, error) {
	ids, err := deviceIDs(point)
	if err != nil {
		return daemon{}, err
	}
	if len(ids) == 0 {
		return daemon{}, Errorf(CodeNoAttribute, "%s has no device left", point)
	}
	text, err := os.ReadFile(filepath.Join(point, blockDir, "zram"+strconv.Itoa(ids[0]), "zramfs", attrDaemon))
	if err != nil {
		return daemon{}, err
	}
	return parseDaemon(string(text)), nil
}

func parseDaemon(text string) daemon {
	var d daemon
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		number, _ := strconv.Atoi(value)
		switch key {
		case keyKeeper:
			d.Keeper = number
		case keyWorker:
			d.Worker = number
		case keyGeneration:
			d.Generation = number
		case keyTransport:
			d.Transport = value
		case keyReason:
			d.Reason = value
		case keyLocked:
			d.Locked = value == "yes"
		case keyWarning:
			d.Warnings = append(d.Warnings, value)
		}
	}
	return d
}

const blockDir = "sys/block"

// deviceIDs lists the numbers of a mount's devices, ascending.
func deviceIDs(point string) ([]int, error) {
	entries, err := os.ReadDir(filepath.Join(point, blockDir))
	if err != nil {
		return nil, err
	}
	var ids []int
	for _, e := range entries {
		if id, err := strconv.Atoi(strings.TrimPrefix(e.Name(), "zram")); err == nil {
			ids = append(ids, id)
		}
	}
	return ids, nil
}
