package fuseconn

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	fsName             = "zramfs"
	defaultPermissions = "default_permissions"
	devFuse            = "/dev/fuse"
	// ioctlClone is FUSE_DEV_IOC_CLONE: _IOR(229, 0, uint32_t).
	ioctlClone = 0x8004e500
)

// MountOptions is what mount(2) is told.
type MountOptions struct {
	// AllowOther lets users other than the mounter see the tree; the kernel
	// then checks modes and owners.
	AllowOther bool
	// MaxRead is most bytes of one READ, Layout.Payload; 0: MaxWrite.
	MaxRead int
}

// Mount opens /dev/fuse and mounts it, as type fuse.zramfs, with mount(2): it
// needs CAP_SYS_ADMIN. The file is where INIT will arrive.
func Mount(mountpoint string, opts MountOptions) (*os.File, error) {
	var st unix.Stat_t
	if err := unix.Stat(mountpoint, &st); err != nil {
		return nil, &os.PathError{Op: "stat", Path: mountpoint, Err: err}
	}
	if opts.MaxRead == 0 {
		opts.MaxRead = MaxWrite
	}
	f, err := openDevice()
	if err != nil {
		return nil, err
	}
	data := fmt.Sprintf("fd=%d,rootmode=%o,user_id=%d,group_id=%d,max_read=%d",
		f.Fd(), st.Mode&unix.S_IFMT, os.Geteuid(), os.Getegid(), opts.MaxRead)
	if opts.AllowOther {
		data += ",allow_other," + defaultPermissions
	}
	err = unix.Mount(fsName, mountpoint, "fuse."+fsName, unix.MS_NOSUID|unix.MS_NODEV, data)
	if err != nil {
		f.Close()
		return nil, &os.PathError{Op: "mount", Path: mountpoint, Err: err}
	}
	return f, nil
}

// Clone opens another /dev/fuse file for the connection of a mounted one.
// Requests are read from either; a reply goes to the file that the request
// was read from. EPERM before the mount.
func Clone(mounted *os.File) (*os.File, error) {
	f, err := openDevice()
	if err != nil {
		return nil, err
	}
	fd := uint32(mounted.Fd())
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), ioctlClone, uintptr(unsafe.Pointer(&fd)))
	if errno != 0 {
		f.Close()
		return nil, fmt.Errorf("fuseconn: clone %s: %w", devFuse, errno)
	}
	return f, nil
}

// openDevice opens /dev/fuse for reads that block: the reading threads are
// meant to sleep in the kernel, not in Go's poller.
func openDevice() (*os.File, error) {
	fd, err := unix.Open(devFuse, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: devFuse, Err: err}
	}
	return os.NewFile(uintptr(fd), devFuse), nil
}
