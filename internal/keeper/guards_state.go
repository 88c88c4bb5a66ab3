package keeper

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/zramfs/zramfs/internal/host"
)

// guardStateDir is where swapon remembers what it changed. A name of a swap
// cannot begin with a dot.
const guardStateDir = RunDir + "/.state"

// guardState is what was changed on this machine for its zramfs swaps, and for
// which: a file, so that whichever command ends the last of them puts it back.
// It is locked from open to close. A value is remembered before it is changed.
type guardState struct {
	Swaps   map[string]guardedSwap `json:"swaps"`   // by mount point
	Changed map[string]change      `json:"changed"` // by path of a file of /proc or /sys
	// Kworkers were given SCHED_FIFO; they and others of these pools serve loop devices.
	Kworkers []int    `json:"kworkers,omitempty"`
	Pools    []string `json:"pools,omitempty"`

	path string   // immutable
	lock *os.File // immutable
}

type guardedSwap struct {
	Dev     string   `json:"dev"` // of the mount: another one at that place is another swap
	Loops   []string `json:"loops,omitempty"`
	Without []string `json:"without,omitempty"`
	Warmed  int      `json:"warmed,omitempty"` // requests sent in parallel beforehand
	Freed   int64    `json:"freed,omitempty"`  // pages discarded before it became swap
	// Queues is what was changed of its loop devices' queues, by path.
	Queues map[string]change `json:"queues,omitempty"`
}

// change is what a file said, and what was written to it instead.
type change struct {
	Was string `json:"was"`
	Set string `json:"set"`
}

func openGuardState(dir string) (*guardState, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("remember settings: %w", err)
	}
	lock, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("remember settings: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		lock.Close()
		return nil, fmt.Errorf("remember settings: lock %s: %w", dir, err)
	}
	s, err := readGuardState(dir)
	if err != nil {
		lock.Close()
		return nil, err
	}
	s.lock = lock
	return s, nil
}

// readGuardState is for those who only want to look: the file is always whole.
func readGuardState(dir string) (*guardState, error) {
	s := &guardState{path: filepath.Join(dir, "guards.json"), Swaps: map[string]guardedSwap{}, Changed: map[string]change{}}
	text, err := os.ReadFile(s.path)
	if err == nil {
		err = json.Unmarshal(text, s)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("settings to put back cannot be read: look into %s, set them by hand, then remove it: %w", s.path, err)
	}
	return s, nil
}

func (s *guardState) close() { s.lock.Close() }

// save writes the file anew, whole or not at all; nothing to remember, no file.
func (s *guardState) save() error {
	if len(s.Swaps) == 0 && len(s.Changed) == 0 && len(s.Kworkers) == 0 {
		if err := os.Remove(s.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remember settings: %w", err)
		}
		return nil
	}
	text, err := json.MarshalIndent(s, "", "  ")
	if err == nil {
		err = os.WriteFile(s.path+".new", append(text, '\n'), 0o600)
	}
	if err == nil {
		err = os.Rename(s.path+".new", s.path)
	}
	if err != nil {
		return fmt.Errorf("remember settings: %w", err)
	}
	return nil
}

// set writes a value to a file of /proc or /sys and remembers the one before.
func (s *guardState) set(path, value string) error {
	now, err := host.ReadValue(path)
	if err != nil || now == value {
		return err
	}
	c, changed := s.Changed[path]
	if !changed {
		c.Was = now
	}
	c.Set = value
	s.Changed[path] = c
	if err := s.save(); err != nil {
		return err
	}
	err = host.WriteValue(path, value)
	if err != nil && !changed {
		delete(s.Changed, path)
		return errors.Join(err, s.save())
	}
	return err
}

// gone says whether a swap's mount is gone without swapoff.
func (s *guardState) gone(point string) (bool, error) {
	swap, known := s.Swaps[point]
	if !known {
		return false, nil
	}
	dev, err := deviceOf(point)
	return err == nil && dev != swap.Dev, err
}

// setQueue writes a value to a file of a loop device's queue, and remembers the
// one before for when the swap on point goes: others may use the device then.
func (s *guardState) setQueue(point, path, value string) error {
	now, err := host.ReadValue(path)
	if err != nil || now == value {
		return err
	}
	swap := s.Swaps[point]
	c, changed := swap.Queues[path]
	if !changed {
		c.Was = now
	}
	c.Set = value
	if swap.Queues == nil {
		swap.Queues = map[string]change{}
	}
	swap.Queues[path] = c
	s.Swaps[point] = swap
	if err := s.save(); err != nil {
		return err
	}
	return host.WriteValue(path, value)
}

// forget forgets a swap, and puts its loop devices' queues back.
func (s *guardState) forget(point string) error {
	err := restore(s.Swaps[point].Queues)
	delete(s.Swaps, point)
	return err
}

// orphans are the loop devices of a swap whose mount is gone, as far as they
// are still attached to a file of it.
func (s *guardState) orphans(point string) (loops []host.Loop, err error) {
	if gone, err := s.gone(point); !gone {
		return nil, err
	}
	swap := s.Swaps[point]
	all, err := host.Loops()
	for _, l := range all {
		if slices.Contains(swap.Loops, l.Path) && strings.HasPrefix(filepath.Base(l.Backing), "zram") {
			loops = append(loops, l)
		}
	}
	return loops, err
}

// forgetDead drops swaps whose mount is gone without swapoff. What was changed
// for them on the machine stays remembered.
func (s *guardState) forgetDead() (failed error) {
	for point := range s.Swaps {
		loops, err := s.orphans(point)
		if err != nil || len(loops) > 0 {
			continue
		}
		if gone, err := s.gone(point); err == nil && gone {
			failed = errors.Join(failed, s.forget(point))
		}
	}
	return failed
}

// drop forgets a swap, and with the last one puts everything back.
func (s *guardState) drop(point string) error {
	err := errors.Join(s.forget(point), s.forgetDead())
	if len(s.Swaps) == 0 {
		err = errors.Join(err, s.putBack())
	}
	return errors.Join(err, s.save())
}

// restore writes the former values, but for those that somebody else has
// changed since: theirs is the later word. What cannot be put back stays.
func restore(changed map[string]change) (failed error) {
	for path, c := range changed {
		now, err := host.ReadValue(path)
		if err == nil && now == c.Set {
			err = host.WriteValue(path, c.Was)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			failed = errors.Join(failed, fmt.Errorf("put back %s to %s: %w", path, c.Was, err))
			continue
		}
		delete(changed, path)
	}
	return failed
}

// putBack puts the machine's settings back. What cannot be put back stays
// remembered.
func (s *guardState) putBack() error {
	failed := restore(s.Changed)
	workers, err := host.Kworkers() // a number may be another's by now: only kworkers are touched
	for _, w := range workers {
		for _, pid := range s.Kworkers {
			if w.PID == pid && w.Policy == unix.SCHED_FIFO {
				err = errors.Join(err, host.SetPolicy(pid, unix.SCHED_NORMAL, 0))
			}
		}
	}
	s.Kworkers, s.Pools = nil, nil
	return errors.Join(failed, err)
}

// path of a sysctl.
func sysctl(elem ...string) string {
	return filepath.Join(append([]string{"/proc/sys"}, elem...)...)
}

// readNumber reads a file of /proc or /sys that holds one number.
func readNumber(path string) (int64, error) {
	text, err := host.ReadValue(path)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", path, err)
	}
	return n, nil
}
