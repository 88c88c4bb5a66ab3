package keeper

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zramfs/zramfs/internal/host"
)

// RunDir is where swapon mounts, a directory per name.
const RunDir = "/run/zramfs"

// SwapConfig is what swapon was asked for.
type SwapConfig struct {
	Name      string
	Size      int64 // bytes of swap; 0: what the store may hold of data that compress well
	Algorithm string
	MemLimit  int64 // bytes that the store may take; 0: from the machine's memory
	Priority  int
	Backing   BackingConfig
	// Transport is TransportPercpu, or TransportRing with EnableURing as in Config.
	Transport   string
	EnableURing bool
	Policy      string   // as ParsePolicy gives it; "": off
	Recompress  []string // as in Config
	Dictionary  string   // as in Config
	LimitPolicy string   // as in Config; without a wait: that of swapPatience
	Segments    int      // 0: by size
	WriteBehind int      // as in Config
	Force       bool     // go on although a guard is missing
	Without     []string // guards to leave out, to see what they are worth
}

// SwapDevices is what swapon made.
type SwapDevices struct {
	Devices []string `json:"devices"` // by segment
	Enabled int      `json:"enabled"` // of them, now; the others follow as the store proves to have room
	Total   int      `json:"total"`
}

var nameForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// swapPatience is how long a swap write waits for room. The watchdog needs a
// second to see that it does, and a few for a process to die.
const swapPatience = 10 * time.Second

// limitPolicy has a write wait: a full store is no answer for swap, and the
// watchdog needs time.
func (c *SwapConfig) limitPolicy() string {
	if c.LimitPolicy == "" || strings.Contains(c.LimitPolicy, "wait=") {
		return c.LimitPolicy
	}
	return c.LimitPolicy + ",wait=" + swapPatience.String()
}

// check looks for what can be known to be wrong beforehand.
func (c *SwapConfig) check() error {
	if err := checkSwapName(c.Name); err != nil {
		return err
	}
	if c.Priority < 0 || c.Priority > host.MaxSwapPriority {
		return Errorf(CodeUsage, "priority %d: expected 0 to %d", c.Priority, host.MaxSwapPriority)
	}
	if c.Segments < 0 || c.Segments > maxSegments {
		return Errorf(CodeUsage, "%d segments: expected 1 to %d, or 0 for as many as suit the size", c.Segments, maxSegments)
	}
	if c.LimitPolicy == "none" {
		return Errorf(CodeUsage, "limit policy none: swap has to wait for room; expected wait=10s, say, or rungs as in compact,wait=10s")
	}
	if err := c.Backing.check(); err != nil {
		return err
	}
	if !slices.Contains(SwapTransports(), c.Transport) {
		return Errorf(CodeUsage, "transport %q is not for swap: expected one of %s", c.Transport, strings.Join(SwapTransports(), ", "))
	}
	return checkWithout(c.Without)
}

// checkSwapName refuses what is no name, and users who cannot swap.
func checkSwapName(name string) error {
	if !nameForm.MatchString(name) {
		return Errorf(CodeUsage, "name %q: expected letters, digits, dots, dashes and underscores", name)
	}
	if !host.Capable(host.CapSysAdmin) {
		return Errorf(CodeNotPermitted, "swap needs root (CAP_SYS_ADMIN): use sudo")
	}
	return nil
}

// guardWatchdog is what --without calls the watchdog.
const guardWatchdog = "watchdog"

// plan completes what was not given: how much memory the store may take, and
// the size of the disk.
func (c *SwapConfig) plan() error {
	m, err := host.ReadMemory()
	if err != nil {
		return err
	}
	if c.MemLimit == 0 {
		c.MemLimit = storeFor(m)
	}
	if c.Size == 0 {
		c.Size = min(c.MemLimit*swapRatio, MaxSize)
		// Whole MiB a segment: swap gives out clusters of up to 2 MiB.
		unit := int64(c.segments()) << 20
		c.Size = max(c.Size/unit, 1) * unit
	}
	return nil
}

// segments is into how many to cut the disk: one where any data fit into the
// store, since a lone page comes faster from one loop device than from several.
func (c *SwapConfig) segments() int {
	switch {
	case c.Segments != 0:
		return c.Segments
	case c.Size <= c.MemLimit/8*7:
		return 1
	}
	return segmentsFor(c.Size)
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

// SwapOn mounts a disk under RunDir, attaches a loop device to each segment,
// sets the guards, writes swap headers, and has the keeper enable as many
// segments as any data fit into; the others follow. It returns warnings, too.
// What is done already is left as it is, so the same call twice is no error.
// When a step fails, the steps that this call did are taken back.
func SwapOn(c SwapConfig) (SwapDevices, []string, error) {
	if err := c.check(); err != nil {
		return SwapDevices{}, nil, err
	}
	unlock, err := lockRunDir()
	if err != nil {
		return SwapDevices{}, nil, err
	}
	defer unlock()
	var steps undo
	devices, warnings, err := c.build(&steps)
	if err != nil {
		if undone := steps.run(); undone != nil {
			err = &Error{ExitCode(err), OneLine(err) + "; taking it back failed too", undone}
		}
		return SwapDevices{}, nil, err
	}
	return devices, warnings, nil
}

// build does the steps that are not done yet, and pushes what undoes each.
func (c *SwapConfig) build(steps *undo) (SwapDevices, []string, error) {
	point := filepath.Join(RunDir, c.Name)
	given := c.Size
	if err := errors.Join(c.keepLimit(point), c.plan()); err != nil {
		return SwapDevices{}, nil, err
	}
	warnings, err := c.ensureMount(point, steps)
	if err != nil {
		return SwapDevices{}, nil, err
	}
	info, err := os.Stat(diskPath(point, 0))
	if err != nil {
		return SwapDevices{}, nil, err
	}
	if given != 0 && info.Size() != (given+pageSize-1)&^(pageSize-1) {
		return SwapDevices{}, nil, Errorf(CodeBusy, "%s exists with %d bytes, not %d: zramfs swapoff it first",
			c.Name, info.Size(), given)
	}
	parts, segment, err := partsOf(point)
	if err != nil {
		return SwapDevices{}, nil, err
	}
	parts, more, err := attachParts(point, parts, steps)
	if err != nil {
		return SwapDevices{}, nil, err
	}
	warnings = append(warnings, more...)
	if more, err = c.prepareParts(point, parts, steps); err != nil {
		return SwapDevices{}, nil, err
	}
	warnings = append(warnings, more...)
	more, err = c.enable(point, parts, segment, steps)
	if err != nil {
		return SwapDevices{}, nil, err
	}
	warnings = append(warnings, more...)
	return devicesOf(point, parts), warnings, nil
}

// devicesOf looks at what is enabled now.
func devicesOf(point string, parts []part) SwapDevices {
	d := SwapDevices{Total: len(parts)}
	for _, p := range parts {
		d.Devices = append(d.Devices, p.loop.Path)
	}
	now, _, err := partsOf(point)
	for _, p := range now {
		if err == nil && p.swap.Path != "" {
			d.Enabled++
		}
	}
	return d
}

func (c *SwapConfig) ensureMount(point string, steps *undo) ([]string, error) {
	if m, ok, err := host.MountAt(point); err != nil {
		return nil, err
	} else if ok && m.Type == host.FSType {
		return nil, refuseNull(point, "swapon")
	}
	switch err := os.Mkdir(point, 0o700); {
	case err == nil:
		*steps = append(*steps, func() error { return os.Remove(point) })
	case !errors.Is(err, os.ErrExist):
		return nil, fmt.Errorf("swapon: %w", err)
	}
	warnings, err := Start(Config{
		Mountpoint:  point,
		Size:        c.Size,
		Algorithm:   c.Algorithm,
		MemLimit:    c.MemLimit,
		Transport:   c.Transport,
		EnableURing: c.EnableURing,
		Segments:    c.segments(),
		WriteBehind: c.WriteBehind,
		Patience:    swapPatience,
		Without:     c.Without,
		Backing:     c.Backing,
		Policy:      c.Policy,
		Recompress:  c.Recompress,
		Dictionary:  c.Dictionary,
		LimitPolicy: c.limitPolicy(),
	})
	if err != nil {
		return nil, err
	}
	*steps = append(*steps, func() error { return Umount(point) })
	return warnings, nil
}

// prepareParts sets the guards, unless a part is swap already, and writes a
// swap header on each part whose loop device is new.
func (c *SwapConfig) prepareParts(point string, parts []part, steps *undo) ([]string, error) {
	var warnings []string
	var devices []string
	running := false
	for _, p := range parts {
		devices = append(devices, p.loop.Path)
		running = running || p.swap.Path != ""
	}
	if !running {
		var err error
		*steps = append(*steps, func() error { return UndoGuards(point) })
		if warnings, err = ApplyGuards(point, devices, c.Without, c.Force); err != nil {
			return nil, err
		}
	}
	for _, p := range parts {
		if running && !p.made {
			continue
		}
		if err := host.MakeSwap(p.loop.Path, "zramfs"); err != nil {
			return nil, err
		}
	}
	return warnings, nil
}

// enable has the keeper enable the parts. A mount without a keeper's thread
// gets all of them at once.
func (c *SwapConfig) enable(point string, parts []part, segment int64, steps *undo) ([]string, error) {
	order := swapOrder{
		Do: swapKeep, Segment: segment, Cap: c.MemLimit / pageSize, Priority: c.Priority,
		Watchdog: !slices.Contains(c.Without, guardWatchdog),
	}
	for _, p := range parts {
		order.Loops = append(order.Loops, p.loop.Number)
	}
	*steps = append(*steps, func() error { return c.takeBack(point, parts) })
	state, err := askSwap(point, order)
	if err != nil {
		return nil, err
	}
	var warnings []string
	if order.Watchdog && !state.Armed {
		warnings = append(warnings, "no watchdog: "+sysrqTrigger+" may not be written here; if the store is ever full, "+
			"writes wait, fail, and the machine may stall")
	}
	if d, err := readDaemon(point); err == nil && !d.Resend {
		warnings = append(warnings, "this kernel cannot send requests again (Linux 6.9): if the worker dies, what is swapped out "+
			"is lost, and programs that need it are killed")
	}
	return warnings, nil
}

// takeBack disables what was enabled by a swapon that failed.
func (c *SwapConfig) takeBack(point string, before []part) error {
	_, err := askSwap(point, swapOrder{Do: swapDrop})
	if errors.Is(err, errNoKeeper) {
		err = nil
	}
	now, _, lookErr := partsOf(point)
	err = errors.Join(err, lookErr)
	for i, p := range now {
		if p.swap.Path != "" && (i >= len(before) || before[i].swap.Path == "") {
			err = errors.Join(err, host.SwapOff(p.swap.Path))
		}
	}
	return err
}

func swapsOn(device string) (bool, error) {
	swaps, err := host.Swaps()
	return slices.ContainsFunc(swaps, func(s host.Swap) bool { return s.Path == device }), err
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
