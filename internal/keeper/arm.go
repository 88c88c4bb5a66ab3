package keeper

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/zramfs/zramfs/internal/host"
)

// Descriptors a keeper is started with.
const (
	bootFD   = 3 // memory file with the boot
	reportFD = 4 // pipe to whoever waits for the mount; absent in the foreground
)

// boot is what a keeper starts from. It lies in a memory file because the
// keeper runs exec on itself half way, and reads it again then.
type boot struct {
	Config   Config   `json:"config"`
	Armed    bool     `json:"armed"`
	Notes    []string `json:"notes,omitempty"` // warnings, for status
	InCgroup bool     `json:"in_cgroup,omitempty"`
	Locked   bool     `json:"locked,omitempty"`  // the keeper's memory
	Flusher  bool     `json:"flusher,omitempty"` // PR_SET_IO_FLUSHER
	OOMScore int      `json:"oom_score,omitempty"`
	Estate   *estate  `json:"estate,omitempty"` // of the keeper before; nil: this one mounts

	file     *os.File
	reporter *os.File // nil once used
}

// makeBoot writes a boot for a new keeper.
func makeBoot(c Config) (*os.File, error) {
	b := boot{Config: c}
	if c.Null {
		b.note("%s", nullWarning)
	}
	err := b.create()
	return b.file, err
}

// create makes the memory file and writes it.
func (b *boot) create() error {
	fd, err := unix.MemfdCreate("zramfs-boot", unix.MFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("make boot file: %w", err)
	}
	b.file = os.NewFile(uintptr(fd), "boot")
	if err := b.save(); err != nil {
		b.file.Close()
		return err
	}
	return nil
}

func (b *boot) save() error {
	text, err := json.Marshal(b)
	if err == nil {
		err = b.file.Truncate(0)
	}
	if err == nil {
		_, err = b.file.WriteAt(text, 0)
	}
	if err != nil {
		return fmt.Errorf("write boot file: %w", err)
	}
	return nil
}

// readBoot takes the inherited descriptors. Who calls the hidden command by
// hand has none.
func readBoot() (boot, error) {
	file := os.NewFile(bootFD, "boot")
	var b boot
	text, err := io.ReadAll(io.NewSectionReader(file, 0, maxMessage))
	if err == nil {
		err = json.Unmarshal(text, &b)
	}
	if err != nil {
		return b, &Error{CodeUsage, "keeper is started by zramfs mount, not by hand", err}
	}
	b.file = file
	if !b.Config.Foreground && b.Estate == nil {
		b.reporter = os.NewFile(reportFD, "report")
	}
	return b, nil
}

// report is what a keeper tells whoever waits for it.
type report struct {
	Failed *failure `json:"failed,omitempty"`
	Notes  []string `json:"notes,omitempty"`
}

// report tells the outcome, once. The error means that nobody waits.
func (b *boot) report(err error) error {
	if b.reporter == nil {
		return nil
	}
	r := report{Notes: b.Notes}
	if err != nil {
		r.Failed = failureOf(err)
	}
	werr := json.NewEncoder(b.reporter).Encode(r)
	b.reporter.Close()
	b.reporter = nil
	return werr
}

func (b *boot) note(format string, args ...any) {
	b.Notes = append(b.Notes, fmt.Sprintf(format, args...))
}

// arm does what the process must be before it becomes the keeper, and execs
// itself: every thread of the new program then has the flag that one thread
// got here, and its text is a copy in memory that no disk is needed for. What
// the machine does not allow is noted and done without.
func (b *boot) arm() error {
	runtime.LockOSThread() // the flag is this thread's, and exec keeps this thread
	if err := b.closeInherited(); err != nil {
		b.note("%v", err)
	}
	if b.Config.leavesOut(guardCgroup) {
		b.note("left out: guard %s", guardCgroup)
	} else if err := host.EnterCgroup(cgroupName); err == nil {
		b.InCgroup = true
	} else if host.Capable(host.CapSysAdmin) {
		b.note("no cgroup of its own: %v", err)
	}
	if b.Config.leavesOut(guardOOM) {
		b.note("left out: guard %s", guardOOM)
	} else if err := host.SetOOMScore(-1000); err != nil {
		b.note("the OOM killer may take the daemon: %v", err)
	}
	if b.Config.leavesOut(guardFlusher) {
		b.note("left out: guard %s", guardFlusher)
	} else if err := host.SetIOFlusher(); err != nil {
		b.note("memory reclaim may wait for the daemon while the daemon waits for memory: %v", err)
	} else {
		b.Flusher = true
	}
	if err := host.NoHugePages(); err != nil {
		b.note("small heaps may take 2 MiB at a time: %v", err)
	}
	b.OOMScore, _ = host.OOMScore(os.Getpid())
	b.Armed = true
	if err := b.save(); err != nil {
		return err
	}
	args := []string{"zramfs", "keeper", b.Config.Mountpoint}
	self, err := sealedSelf()
	if errors.Is(err, errInMemory) {
		return fmt.Errorf("exec keeper: %w", syscall.Exec("/proc/self/exe", args, os.Environ()))
	}
	if err == nil {
		err = syscall.Exec(fmt.Sprintf("/proc/self/fd/%d", self.Fd()), args, os.Environ())
		self.Close()
	}
	b.note("the program runs from its file, not from memory: %v", err)
	if err := b.save(); err != nil {
		return err
	}
	return fmt.Errorf("exec keeper: %w", syscall.Exec("/proc/self/exe", args, os.Environ()))
}

// closeInherited lets exec close what the caller's shell left open: a daemon
// that holds the end of someone's pipe keeps them waiting for ever.
func (b *boot) closeInherited() error {
	first := uint(reportFD)
	if b.reporter != nil {
		first++
	}
	if err := unix.CloseRange(first, math.MaxInt32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("close inherited descriptors: %w", err)
	}
	return nil
}

// errInMemory says that a program lies on a file system in memory: a copy would
// only take as much again.
var errInMemory = errors.New("the program lies in memory already")

// sealedSelf copies the running program to a memory file that nobody can
// change; errInMemory if there is no need to.
func sealedSelf() (*os.File, error) {
	const self = "/proc/self/exe"
	var fs unix.Statfs_t
	if err := unix.Statfs(self, &fs); err != nil {
		return nil, fmt.Errorf("copy program: %w", err)
	}
	if fs.Type == unix.TMPFS_MAGIC || fs.Type == unix.RAMFS_MAGIC {
		return nil, errInMemory
	}
	return sealedCopy(self)
}

func sealedCopy(path string) (*os.File, error) {
	exe, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("copy program: %w", err)
	}
	defer exe.Close()
	fd, err := unix.MemfdCreate("zramfs", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.3 there is no MFD_EXEC, and all are executable
		fd, err = unix.MemfdCreate("zramfs", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return nil, fmt.Errorf("copy program: %w", err)
	}
	f := os.NewFile(uintptr(fd), "zramfs")
	if _, err = io.Copy(f, exe); err == nil {
		_, err = unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS,
			unix.F_SEAL_WRITE|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("copy program: %w", err)
	}
	return f, nil
}

// lockDown is the part of arming that exec would undo.
func (b *boot) lockDown() {
	unix.CloseOnExec(bootFD) // kept: an upgrade writes it anew
	if b.reporter != nil {
		unix.CloseOnExec(reportFD)
	}
	nameProcess(nameKeeper)
	if err := host.Undumpable(); err != nil {
		b.note("%v", err)
	}
	if b.Config.leavesOut(guardLocked) {
		b.note("left out: guard %s", guardLocked)
		return
	}
	if err := host.LockMemory(); err != nil {
		b.note("keeper: %v", err)
		return
	}
	b.Locked = true
	if err := errors.Join(lockProgram(), host.PopulateProgram()); err != nil {
		b.note("%v", err)
	}
}

// What ps calls the processes: exec of a descriptor gives a number.
const (
	nameKeeper  = "zramfs-keeper"
	nameWorker  = "zramfs-worker"
	nameStandby = "zramfs-standby"
)

func nameProcess(name string) {
	// A name is a convenience for ps.
	_ = os.WriteFile("/proc/self/comm", []byte(name), 0)
}

// lockProgram keeps every page of the program in memory, also those that have
// not run yet: the next worker starts from them, when memory may be short.
func lockProgram() error {
	exe, err := os.Open("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("lock program: %w", err)
	}
	defer exe.Close()
	_, err = lockFile(exe) // never unmapped: the lock is to last as long as the process
	return err
}

// lockFile keeps every page of a file in memory until the mapping that it
// gives is unmapped, where this process locks its memory.
func lockFile(f *os.File) ([]byte, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("lock program: %w", err)
	}
	text, err := unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("lock program: %w", err)
	}
	if err := unix.Madvise(text, unix.MADV_POPULATE_READ); err != nil {
		return nil, errors.Join(fmt.Errorf("lock program: %w", err), unix.Munmap(text))
	}
	return text, nil
}
