package keeper

import (
	"errors"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/docker/go-units"
	"golang.org/x/sys/unix"

	"github.com/zramfs/zramfs/internal/fusefs"
	"github.com/zramfs/zramfs/internal/host"
)

const (
	// MaxSize is the largest disk, 16 TiB: what 32 bits of page number reach.
	MaxSize = 16 << 40
	// DefaultSize is the disk of a mount that names no size.
	DefaultSize = 4 << 30

	pageSize = 4096
)

// Transports.
const (
	TransportAuto   = "auto"
	TransportPercpu = "percpu"
	TransportRing   = "ring"
	TransportGofuse = "gofuse"
)

// PolicyRefuse is the stable policy that a loop device cannot live with: it
// does not retry.
const PolicyRefuse = "refuse"

// Policies lists the stable policies.
func Policies() []string { return []string{"snapshot", "wait", PolicyRefuse} }

// Transports lists the transports.
func Transports() []string {
	return []string{TransportAuto, TransportPercpu, TransportRing, TransportGofuse}
}

// SwapTransports lists those that swap can be on.
func SwapTransports() []string { return []string{TransportPercpu, TransportRing} }

// Config is what a mount was asked to be. It travels as JSON from the command
// to the keeper and on to each worker.
type Config struct {
	Mountpoint  string `json:"mountpoint"` // absolute, no symbolic links
	Size        int64  `json:"size"`       // bytes
	Algorithm   string `json:"algorithm,omitempty"`
	MemLimit    int64  `json:"mem_limit,omitempty"` // bytes, 0: none
	Stable      string `json:"stable,omitempty"`
	WriteBehind int    `json:"write_behind,omitempty"` // frames; 0: off
	Policy      string `json:"policy,omitempty"`       // as ParsePolicy gives it; "": off
	// Recompress are the algorithms of priorities 1 to 3, as recomp_algorithm's.
	Recompress  []string `json:"recompress,omitempty"`
	Dictionary  string   `json:"dictionary,omitempty"`   // path of a file for the first of them, on zram0
	LimitPolicy string   `json:"limit_policy,omitempty"` // as limit_policy's; "": the default
	Streams     int      `json:"streams,omitempty"`
	Transport   string   `json:"transport"`
	EnableURing bool     `json:"enable_uring,omitempty"` // switch FUSE over io_uring on in the kernel
	AllowOther  bool     `json:"allow_other,omitempty"`
	Foreground  bool     `json:"foreground,omitempty"`
	Segments    int      `json:"segments,omitempty"` // files that cut zram0, 0: none
	// Backing is what zram0 writes pages back to.
	Backing BackingConfig `json:"backing"`
	// Patience is how long a write waits for room before it gets ENOSPC; 0: a moment.
	Patience  time.Duration `json:"patience,omitempty"`
	NoStandby bool          `json:"no_standby,omitempty"`
	// Null answers the disk's requests and stores nothing.
	Null bool `json:"null,omitempty"`
	// For tests: regions that the kernel can swap out, and a kernel that sends
	// no request again.
	Memfd    bool `json:"memfd,omitempty"`
	NoResend bool `json:"no_resend,omitempty"`
	// Without names guards that are left out, to see what each is worth.
	Without []string `json:"without,omitempty"`
}

// Check looks for what can be known to be wrong before anything is started,
// resolves the transport, and makes Mountpoint absolute.
func (c *Config) Check() error {
	if err := checkPageSize(os.Getpagesize()); err != nil {
		return err
	}
	if c.Size <= 0 || c.Size > MaxSize {
		return Errorf(CodeUsage, "size of %d bytes: expected 4096 bytes to 16 TiB", c.Size)
	}
	if c.Stable != "" && !slices.Contains(Policies(), c.Stable) {
		return Errorf(CodeUsage, "unknown stable policy %q: expected one of %s", c.Stable, strings.Join(Policies(), ", "))
	}
	if c.Streams < 0 {
		return Errorf(CodeUsage, "%d streams: expected 1 or more, or 0 for one per CPU", c.Streams)
	}
	if c.WriteBehind < 0 {
		return Errorf(CodeUsage, "%d frames: expected 0 (off) or more", c.WriteBehind)
	}
	if c.Segments < 0 || c.Segments > fusefs.MaxSegments {
		return Errorf(CodeUsage, "%d segments: expected 0 (none) to %d", c.Segments, fusefs.MaxSegments)
	}
	if int64(c.Segments)*pageSize > c.Size {
		return Errorf(CodeUsage, "%d segments of a disk of %d bytes: expected a page or more for each", c.Segments, c.Size)
	}
	if err := c.Backing.check(); err != nil {
		return err
	}
	if err := c.checkDictionary(); err != nil {
		return err
	}
	if err := c.checkNull(); err != nil {
		return err
	}
	if err := c.checkTransport(); err != nil {
		return err
	}
	if err := checkFuse("/dev/fuse"); err != nil {
		return err
	}
	point, err := checkMountpoint(c.Mountpoint)
	c.Mountpoint = point
	return err
}

func checkPageSize(size int) error {
	if size != pageSize {
		return Errorf(CodeLacking, "this machine has pages of %d bytes: zramfs serves machines with pages of 4096 bytes; "+
			"boot a kernel with 4 KiB pages", size)
	}
	return nil
}

func (c *Config) checkTransport() error {
	if c.EnableURing && c.Transport != TransportRing {
		return Errorf(CodeUsage, "--enable-uring is for --transport ring, not for %s", c.Transport)
	}
	admin := host.Capable(host.CapSysAdmin)
	switch c.Transport {
	case TransportAuto, "":
		c.Transport = TransportGofuse
		if admin {
			c.Transport = TransportPercpu
		}
	case TransportPercpu:
		if !admin {
			return Errorf(CodeNotPermitted, "transport percpu mounts by itself and needs root (CAP_SYS_ADMIN): "+
				"use --transport auto or gofuse")
		}
	case TransportRing:
		return c.checkRing(admin)
	case TransportGofuse:
	default:
		return Errorf(CodeUsage, "unknown transport %q: expected one of %s", c.Transport, strings.Join(Transports(), ", "))
	}
	return nil
}

// The number of /dev/fuse (linux/Documentation/admin-guide/devices.txt).
const fuseMajor, fuseMinor = 10, 229

// checkFuse opens /dev/fuse and closes it again: an open file there that is
// not mounted has no effect. fusermount3 opens it as the same user.
func checkFuse(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_CLOEXEC, 0)
	switch {
	case err == nil:
		defer f.Close()
		var st unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &st); err != nil {
			return &Error{CodeLacking, path, err}
		}
		if st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != unix.Mkdev(fuseMajor, fuseMinor) {
			return Errorf(CodeLacking, "%s is not the fuse device (character device %d:%d): something else lies in its place",
				path, fuseMajor, fuseMinor)
		}
		return nil
	case errors.Is(err, fs.ErrPermission):
		return &Error{CodeNotPermitted, path + " may not be opened: run as root, or in a container pass " +
			"--device /dev/fuse --cap-add SYS_ADMIN", err}
	default:
		return &Error{CodeLacking, path + " is not there: load the fuse module (modprobe fuse), or in a container pass " +
			"--device /dev/fuse", err}
	}
}

// checkMountpoint resolves the path of a directory that is there, is empty,
// and carries no zramfs yet.
func checkMountpoint(path string) (string, error) {
	if path == "" {
		return "", Errorf(CodeUsage, "the mount point is empty: name a directory")
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", &Error{CodeMountpoint, "mount point " + path, err}
	}
	// Asked first and by name: a dead mount cannot be looked into.
	if m, ok, err := host.MountAt(abs); err == nil && ok && m.Type == host.FSType {
		return "", alreadyMounted(abs)
	}
	abs, err = filepath.EvalSymlinks(abs)
	if errors.Is(err, fs.ErrNotExist) {
		return "", Errorf(CodeMountpoint, "mount point %s does not exist: make the directory first", path)
	}
	if err != nil {
		return "", &Error{CodeMountpoint, "mount point " + path, err}
	}
	if m, ok, err := host.MountAt(abs); err == nil && ok && m.Type == host.FSType {
		return "", alreadyMounted(abs)
	}
	return abs, checkEmptyDir(abs)
}

func alreadyMounted(path string) error {
	return Errorf(CodeMountpoint, "a zramfs is already mounted on %s: use it, or umount it first", path)
}

func checkEmptyDir(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return &Error{CodeMountpoint, "mount point", err}
	}
	if !info.IsDir() {
		return Errorf(CodeMountpoint, "mount point %s is not a directory: name an empty directory", path)
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return &Error{CodeMountpoint, "mount point " + path, err}
	}
	if len(entries) > 0 {
		return Errorf(CodeMountpoint, "mount point %s is not empty (%s is in it): name an empty directory",
			path, entries[0].Name())
	}
	return nil
}

// ParseSize reads a size: bytes, or with a suffix K, M, G, T (powers of 1024;
// a trailing B or iB changes nothing). Everything outside 1 byte to 16 TiB is
// an error.
func ParseSize(text string) (int64, error) {
	const want = "expected bytes or a number with K, M, G or T, such as 512M or 4G"
	n, err := units.RAMInBytes(strings.TrimSpace(text))
	switch {
	case strings.HasPrefix(strings.TrimSpace(text), "-"):
		return 0, Errorf(CodeUsage, "size %q is negative: %s", text, want)
	case err != nil:
		return 0, Errorf(CodeUsage, "size %q is not a size: %s", text, want)
	case n == 0:
		return 0, Errorf(CodeUsage, "size %q is zero: %s", text, want)
	case n < 0 || n == math.MaxInt64 || n > MaxSize:
		return 0, Errorf(CodeUsage, "size %q is beyond 16 TiB, the largest disk: choose a smaller one", text)
	}
	return n, nil
}

// ParseLimit reads a memory limit: a size, or 0 for none.
func ParseLimit(text string) (int64, error) {
	if strings.TrimSpace(text) == "0" {
		return 0, nil
	}
	return ParseSize(text)
}
