package keeper

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/zramfs/zramfs/internal/host"
)

// Status is what there is to tell about one device. Its JSON form is what
// scripts read: fields are added, never renamed. Sizes are bytes.
type Status struct {
	Name       string    `json:"name"`
	Mountpoint string    `json:"mountpoint"`
	Disk       string    `json:"disk"` // path of the file
	Disksize   int64     `json:"disksize"`
	Algorithm  string    `json:"algorithm"`
	Streams    int       `json:"streams"`
	Transport  string    `json:"transport"`
	Reason     string    `json:"transport_reason"`
	Stable     string    `json:"stable"`
	Keeper     int       `json:"keeper_pid"`
	Worker     int       `json:"worker_pid"`
	Standby    int       `json:"standby_pid"` // 0: none now
	Generation int       `json:"generation"`
	Version    string    `json:"version"`
	Resend     bool      `json:"resend"` // the death of a worker loses nothing
	Crash      string    `json:"crash"`  // what it means, in words
	Locked     bool      `json:"memory_locked"`
	Loop       []string  `json:"loop"`
	Swap       []SwapUse `json:"swap"`
	Warnings   []string  `json:"warnings"`
	State      string    `json:"state"` // one of the States

	// The kernel's statistics, each a field by its kernel name.
	MemoryStat
	IOStat
	DebugStat

	// Statistics of our own, by attribute and name.
	StableStat    map[string]int64 `json:"stable_stat"`
	Places        map[string]int64 `json:"memory_stat"`
	IntegrityStat map[string]int64 `json:"integrity_stat"`
	CrashStat     map[string]int64 `json:"crash_stat"`
	SwapStat      map[string]int64 `json:"swap_stat"`
}

// States of a mount.
const (
	StateServing    = "serving"
	StateRecovering = "recovering" // its worker is being replaced
	StateNull       = "null"       // answers, and keeps nothing: mount --null
	StateDead       = "dead"       // mounted, but its daemon is gone: umount clears it away
)

// SwapUse is a swap device on a disk.
type SwapUse struct {
	Device   string `json:"device"`
	Size     int64  `json:"size"`
	Used     int64  `json:"used"`
	Priority int    `json:"priority"`
}

// MemoryStat is mm_stat: bytes, but for the last four, which are pages.
type MemoryStat struct {
	OrigDataSize   int64 `json:"orig_data_size"`
	ComprDataSize  int64 `json:"compr_data_size"`
	MemUsedTotal   int64 `json:"mem_used_total"`
	MemLimit       int64 `json:"mem_limit"`
	MemUsedMax     int64 `json:"mem_used_max"`
	SamePages      int64 `json:"same_pages"`
	PagesCompacted int64 `json:"pages_compacted"`
	HugePages      int64 `json:"huge_pages"`
	HugePagesSince int64 `json:"huge_pages_since"`
}

// IOStat is io_stat, in requests; notify_free in discards.
type IOStat struct {
	FailedReads  int64 `json:"failed_reads"`
	FailedWrites int64 `json:"failed_writes"`
	InvalidIO    int64 `json:"invalid_io"`
	NotifyFree   int64 `json:"notify_free"`
}

// DebugStat is debug_stat.
type DebugStat struct {
	WriteStall int64 `json:"writestall"`
	MissFree   int64 `json:"miss_free"`
}

// ReadStatus tells about every device of the given mounts, or of all mounts.
// A mount that this user may not look into is skipped unless it was named. One
// that cannot be asked hides no other: the error comes beside what the others say.
func ReadStatus(paths []string) ([]Status, error) {
	all := []Status{}
	points := []string{}
	var failed error
	for _, path := range paths {
		m, err := Find(path)
		if err != nil {
			failed = errors.Join(failed, err)
			continue
		}
		points = append(points, m.Point)
	}
	if len(paths) == 0 {
		var err error
		if points, err = MountPoints(); err != nil {
			return nil, err
		}
	}
	for _, point := range points {
		devices, err := answered(point, patience, func() ([]Status, error) { return mountStatus(point) })
		all = append(all, devices...)
		switch {
		case errors.Is(err, fs.ErrPermission) && len(paths) == 0:
		case errors.Is(err, fs.ErrNotExist) && len(paths) == 0: // unmounted meanwhile
		default:
			failed = errors.Join(failed, err)
		}
	}
	return all, failed
}

func mountStatus(point string) ([]Status, error) {
	ids, err := deviceIDs(point)
	dead := isDead(err)
	if err != nil && !dead {
		return nil, err
	}
	loops, err := host.LoopsBelow(point)
	if err != nil {
		return nil, err
	}
	swaps, err := host.Swaps()
	if err != nil {
		return nil, err
	}
	if dead {
		return []Status{deadStatus(point, loops, swaps)}, nil
	}
	var all []Status
	for _, id := range ids {
		s, err := deviceStatus(point, id)
		if err != nil {
			return all, err
		}
		s.use(loops, swaps)
		all = append(all, s)
	}
	return all, nil
}

// deadStatus is a row for all disks of a mount that nobody serves: which there
// were nobody can tell, but the loop devices on them are there, often as swap.
func deadStatus(point string, loops []host.Loop, swaps []host.Swap) Status {
	s := Status{Name: "-", Mountpoint: point, State: StateDead, Loop: []string{}, Swap: []SwapUse{},
		Warnings: []string{"the daemon is gone: zramfs umount clears the mount away"}}
	for _, l := range loops {
		s.add(l, swaps)
	}
	return s
}

func deviceStatus(point string, id int) (Status, error) {
	name := "zram" + strconv.Itoa(id)
	r := reader{dir: filepath.Join(point, blockDir, name)}
	s := Status{
		Name:       name,
		Mountpoint: point,
		Disk:       diskPath(point, id),
		Disksize:   number(r.read("disksize")),
		Algorithm:  strings.TrimSpace(r.read("zramfs/algorithm")),
		Stable:     bracketed(r.read("zramfs/" + attrPolicy)),
		State:      StateServing,

		Streams:       max(0, strings.Count(r.read("zramfs/stream_stat"), "\n")-1), // a heading, then one a line
		StableStat:    pairs(r.read("zramfs/stable_stat")),
		Places:        pairs(r.read("zramfs/memory_stat")),
		IntegrityStat: pairs(r.read("zramfs/integrity_stat")),
		CrashStat:     pairs(r.read("zramfs/" + attrCrash)),
		SwapStat:      pairs(r.read("zramfs/" + attrSwap)),
	}
	columns(r.read("mm_stat"), &s.OrigDataSize, &s.ComprDataSize, &s.MemUsedTotal,
		&s.MemLimit, &s.MemUsedMax, &s.SamePages, &s.PagesCompacted,
		&s.HugePages, &s.HugePagesSince)
	columns(r.read("io_stat"), &s.FailedReads, &s.FailedWrites, &s.InvalidIO, &s.NotifyFree)
	_, debug, _ := strings.Cut(r.read("debug_stat"), "\n") // after the version
	columns(debug, &s.WriteStall, &s.MissFree)
	d := parseDaemon(r.read("zramfs/" + attrDaemon))
	s.Keeper, s.Worker, s.Standby, s.Generation = d.Keeper, d.Worker, d.Standby, d.Generation
	s.Version, s.Resend, s.Crash = d.Version, d.Resend, d.Crash
	s.Transport, s.Reason, s.Locked = d.Transport, d.Reason, d.Locked
	s.Warnings = append([]string{}, d.Warnings...)
	if d.Null {
		s.State = StateNull
	}
	return s, r.err
}

// use adds the loop and swap devices that are on this disk.
func (s *Status) use(loops []host.Loop, swaps []host.Swap) {
	s.Loop, s.Swap = []string{}, []SwapUse{}
	for _, l := range loops {
		if onDisk(l.Backing, s.Disk) {
			s.add(l, swaps)
		}
	}
}

// add adds a loop device, and the swap that is on it.
func (s *Status) add(l host.Loop, swaps []host.Swap) {
	s.Loop = append(s.Loop, l.Path)
	i := slices.IndexFunc(swaps, func(w host.Swap) bool { return w.Path == l.Path })
	if i >= 0 {
		s.Swap = append(s.Swap, SwapUse{l.Path, swaps[i].Size, swaps[i].Used, swaps[i].Priority})
	}
}

// reader reads files of one directory and keeps the first error.
type reader struct {
	dir string
	err error
}

func (r *reader) read(name string) string {
	if r.err != nil {
		return ""
	}
	text, err := os.ReadFile(filepath.Join(r.dir, name))
	r.err = err
	return string(text)
}

func number(text string) int64 {
	n, _ := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
	return n
}

// columns fills as many numbers as there are.
func columns(text string, into ...*int64) {
	for i, f := range strings.Fields(text) {
		if i < len(into) {
			*into[i] = number(f)
		}
	}
}

// pairs reads "name value" lines.
func pairs(text string) map[string]int64 {
	m := map[string]int64{}
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) == 2 {
			m[f[0]] = number(f[1])
		}
	}
	return m
}
