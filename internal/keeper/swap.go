package keeper

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/zramfs/zramfs/internal/host"
)

// RunDir is where swapon mounts, a directory per name.
const RunDir = "/run/zramfs"

// SwapConfig is what swapon was asked for.
type SwapConfig struct {
	Name      string
	Size      int64 // bytes; 0: half of the memory, at most 4 GiB
	Algorithm string
	MemLimit  int64 // bytes; 0: none
	Priority  int
}

var nameForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// check completes the defaults.
func (c *SwapConfig) check() error {
	if !nameForm.MatchString(c.Name) {
		return Errorf(CodeUsage, "name %q: expected letters, digits, dots, dashes and underscores", c.Name)
	}
	if c.Priority < 0 || c.Priority > host.MaxSwapPriority {
		return Errorf(CodeUsage, "priority %d: expected 0 to %d", c.Priority, host.MaxSwapPriority)
	}
	if !host.Capable(host.CapSysAdmin) {
		return Errorf(CodeNotPermitted, "swap needs root (CAP_SYS_ADMIN): use sudo")
	}
	if c.Size == 0 {
		total, err := host.TotalMemory()
		if err != nil {
			return err
		}
		c.Size = min(total/2, DefaultSize) &^ (pageSize - 1)
	}
	return nil
}

// undo is what takes back the steps done so far.
type undo []func() error

// run takes them back, the last first.
func (u undo) run() error {
	var err error
	for _, step := range slices.Backward(u) {
		err = errors.Join(err, step())
	}
	return err
}

// SwapOn mounts a disk under RunDir, attaches a loop device, writes a swap
// header and enables it, and returns the device and warnings. What is done
// already is left as it is, so the same call twice is no error. When a step
// fails, the steps that this call did are taken back.
func SwapOn(c SwapConfig) (string, []string, error) {
	given := c.Size != 0
	if err := c.check(); err != nil {
		return "", nil, err
	}
	unlock, err := lockRunDir()
	if err != nil {
		return "", nil, err
	}
	defer unlock()
	var steps undo
	device, warnings, err := c.build(&steps, given)
	if err != nil {
		if undone := steps.run(); undone != nil {
			err = &Error{ExitCode(err), OneLine(err) + "; taking it back failed too", undone}
		}
		return "", nil, err
	}
	return device, warnings, nil
}

// build does the steps that are not done yet, and pushes what undoes each.
func (c *SwapConfig) build(steps *undo, sizeGiven bool) (string, []string, error) {
	point := filepath.Join(RunDir, c.Name)
	warnings, err := c.ensureMount(point, steps)
	if err != nil {
		return "", nil, err
	}
	info, err := os.Stat(diskPath(point, 0))
	if err != nil {
		return "", nil, err
	}
	if sizeGiven && info.Size() != (c.Size+pageSize-1)&^(pageSize-1) {
		return "", nil, Errorf(CodeBusy, "%s exists with %d bytes, not %d: zramfs swapoff it first", c.Name, info.Size(), c.Size)
	}
	loops, err := host.LoopsBelow(diskPath(point, 0))
	if err != nil {
		return "", nil, err
	}
	on, err := swapsOnAny(loops)
	if err == nil && !on {
		// A page of a table that is not there yet would be one more page to
		// find when the machine has none to give.
		err = Set(point, "zramfs/populate", "1", 0)
	}
	if err != nil {
		return "", nil, err
	}
	device, more, err := Attach(point, 0)
	if err != nil {
		return "", nil, err
	}
	warnings = append(warnings, more...)
	if len(loops) == 0 {
		*steps = append(*steps, func() error { return host.DetachLoop(device) })
	}
	if on {
		return device, warnings, nil
	}
	if err := host.MakeSwap(device, "zramfs"); err != nil {
		return "", nil, err
	}
	if err := host.SwapOn(device, c.Priority); err != nil {
		return "", nil, err
	}
	return device, warnings, nil
}

func (c *SwapConfig) ensureMount(point string, steps *undo) ([]string, error) {
	if m, ok, err := host.MountAt(point); err != nil || ok && m.Type == host.FSType {
		return nil, err
	}
	switch err := os.Mkdir(point, 0o700); {
	case err == nil:
		*steps = append(*steps, func() error { return os.Remove(point) })
	case !errors.Is(err, os.ErrExist):
		return nil, fmt.Errorf("swapon: %w", err)
	}
	warnings, err := Start(Config{
		Mountpoint: point,
		Size:       c.Size,
		Algorithm:  c.Algorithm,
		MemLimit:   c.MemLimit,
		Transport:  TransportPercpu,
	})
	if err != nil {
		return nil, err
	}
	*steps = append(*steps, func() error { return Umount(point) })
	return warnings, nil
}

func swapsOnAny(loops []host.Loop) (bool, error) {
	for _, l := range loops {
		if on, err := swapsOn(l.Path); on || err != nil {
			return on, err
		}
	}
	return false, nil
}

func swapsOn(device string) (bool, error) {
	swaps, err := host.Swaps()
	return slices.ContainsFunc(swaps, func(s host.Swap) bool { return s.Path == device }), err
}

// SwapOff undoes SwapOn: every page returns to memory, then loop device,
// mount and directory go. Where memory cannot hold the pages, it stays as it
// was.
func SwapOff(name string) error {
	if !nameForm.MatchString(name) {
		return Errorf(CodeUsage, "name %q: expected letters, digits, dots, dashes and underscores", name)
	}
	if !host.Capable(host.CapSysAdmin) {
		return Errorf(CodeNotPermitted, "swap needs root (CAP_SYS_ADMIN): use sudo")
	}
	unlock, err := lockRunDir()
	if err != nil {
		return err
	}
	defer unlock()
	point := filepath.Join(RunDir, name)
	if m, ok, err := host.MountAt(point); err != nil {
		return err
	} else if !ok || m.Type != host.FSType {
		return Errorf(CodeNotMounted, "no swap of name %s: zramfs status lists what is there", name)
	}
	loops, err := host.LoopsBelow(point)
	if err != nil {
		return err
	}
	for _, loop := range loops {
		on, err := swapsOn(loop.Path)
		if err != nil {
			return err
		}
		if on {
			if err := host.SwapOff(loop.Path); errors.Is(err, unix.ENOMEM) {
				return &Error{CodeBusy, "memory cannot hold what is swapped out: free some first", err}
			} else if err != nil {
				return err
			}
		}
		if err := host.DetachLoop(loop.Path); errors.Is(err, unix.EBUSY) {
			return busyLoop(point, loop)
		} else if err != nil {
			return err
		}
	}
	if err := Umount(point); err != nil {
		return err
	}
	return os.Remove(point)
}

// lockRunDir makes RunDir and keeps other swapon and swapoff commands out.
func lockRunDir() (unlock func(), err error) {
	if err := os.MkdirAll(RunDir, 0o700); err != nil {
		return nil, fmt.Errorf("swap: %w", err)
	}
	f, err := os.Open(RunDir)
	if err != nil {
		return nil, fmt.Errorf("swap: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("swap: lock %s: %w", RunDir, err)
	}
	return func() { f.Close() }, nil
}
