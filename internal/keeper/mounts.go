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
	// The mount itself is looked at last: one whose worker is just being
	// replaced lets whoever looks wait.
	for _, candidate := range []func() (string, error){
		func() (string, error) { return abs, nil },
		func() (string, error) { // a dead mount cannot be resolved, but its parent can
			dir, err := filepath.EvalSymlinks(filepath.Dir(abs))
			return filepath.Join(dir, filepath.Base(abs)), err
		},
		func() (string, error) {
			if strings.Contains(path, "/") {
				return "", fs.ErrNotExist
			}
			return filepath.Join(RunDir, path), nil
		},
		func() (string, error) { return filepath.EvalSymlinks(abs) },
	} {
		point, err := candidate()
		if err != nil {
			continue
		}
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

// Umount ends a mount and waits until its processes are gone. In use:
// CodeBusy, naming who holds it, and it goes on serving. A mount whose daemon
// is gone is cleared away. It asks the keeper, and no worker, which may just
// be being replaced.
func Umount(path string) error {
	m, err := Find(path)
	if err != nil {
		return err
	}
	daemon, err := processesOf(m.Point)
	if isDead(err) {
		return errors.Join(host.ReleaseLoops(m.Point), host.Unmount(m.Point, true))
	}
	if err != nil {
		return err
	}
	// Watched before the mount goes: a process number alone may be reused.
	var watches []*os.File
	for _, pid := range daemon.Pids() {
		watch, err := host.Watch(pid)
		if err != nil {
			return err
		}
		if watch != nil {
			defer watch.Close()
			watches = append(watches, watch)
		}
	}
	unmount := func() error { return host.Unmount(m.Point, false) }
	if err := unmountUnused(m.Point, unmount, daemon.Pids); err != nil {
		return err
	}
	_ = askUnmounted(m) // a keeper learns it from its worker, unless that is stopped or not there
	for _, watch := range watches {
		if !host.Gone(watch, int(2*drainTime/time.Millisecond)) {
			return Errorf(CodeFailure, "%s is unmounted, but its daemon (processes %d) has not ended", m.Point, daemon.Pids())
		}
	}
	return nil
}

// processesOf asks the keeper of a mount who there is, or, where it cannot be
// asked, as from another network namespace, the worker.
func processesOf(point string) (Processes, error) {
	p, err := askProcesses(point)
	if !errors.Is(err, errNoKeeper) {
		return p, err
	}
	d, err := readDaemon(point)
	return Processes{Keeper: d.Keeper, Worker: d.Worker, Standby: d.Standby, Generation: d.Generation}, err
}

// unmountUnused unmounts unless somebody holds it: who is found in two looks in
// a row is no passer-by. daemon gives the numbers of our own processes.
func unmountUnused(point string, unmount func() error, daemon func() []int) error {
	var before []string
	for range umountTries {
		err := unmount()
		if !errors.Is(err, unix.EBUSY) {
			if errors.Is(err, fs.ErrPermission) {
				return &Error{CodeNotPermitted, "umount needs root, or the user who mounted", err}
			}
			return err
		}
		holders, err := host.Holders(point, daemon()...)
		if err != nil || len(holders) > 0 && slices.Equal(holders, before) {
			break
		}
		before = holders
		time.Sleep(umountPause)
	}
	return busyError(point, daemon()...)
}

// isDead says whether an error from a mount means that no daemon serves it.
func isDead(err error) bool {
	return errors.Is(err, unix.ENOTCONN) || errors.Is(err, unix.ECONNABORTED)
}

// daemon is what daemon_stat says.
type daemon struct {
	Keeper, Worker, Standby, Generation int
	Transport, Reason, Version          string
	Locked, Resend, Null                bool
	Crash                               string // what one would mean
	Warnings                            []string
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
		case keyStandby:
			d.Standby = number
		case keyVersion:
			d.Version = value
		case keyResend:
			d.Resend = value == "yes"
		case keyCrash:
			d.Crash = value
		case keyNull:
			d.Null = value == "yes"
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
	slices.Sort(ids) // ReadDir sorts names, and zram10 comes before zram2
	return ids, nil
}
