package keeper

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zramfs/zramfs/internal/host"
)

// processGuards are what the daemon's processes must be. They are set when a
// process starts; swapon only looks, but for the OOM killer's score.
func processGuards() []guard {
	return []guard{
		{
			name: guardLocked, must: true, optional: true, check: checkLocked,
			why:  "a page of the daemon that is swapped out, or never was in memory, has to come through the daemon that waits for it",
			todo: "mount as root or with CAP_IPC_LOCK; under systemd with LimitMEMLOCK=infinity",
		}, {
			name: guardNoSwap, check: checkNoSwap,
			why:  "between the death of a worker and the next one its stored pages could be swapped out, into the disk that they are",
			todo: "use Linux 6.4 or later, which has tmpfs with noswap",
		}, {
			name: guardTables, must: true, optional: true, swapOnly: true, check: checkTables,
			why:  "the first write to a part of the disk would need a page for its table when there is none",
			todo: "use zramfs swapon, which populates them; or store 1 in zramfs/populate before swap is enabled",
		}, {
			name: guardReserve, must: true, optional: true, check: checkReserve,
			why:  "a page that is swapped out needs a place at once; without populated pages at hand it waits for memory",
			todo: "free memory on this machine: the reserve is filled again as soon as there is some",
		}, upkeepGuard(), {
			name: guardFlusher, must: true, optional: true, check: checkFlusher,
			why: "a thread without PR_SET_IO_FLUSHER that allocates may be made to swap out pages, " +
				"or to wait for kswapd, which waits for the daemon",
			todo: "mount with CAP_SYS_RESOURCE; a container needs --cap-add SYS_RESOURCE",
		}, {
			name: guardOOM, must: true, optional: true, check: checkOOM, apply: applyOOM,
			why:  "the OOM killer takes the largest process, and the daemon holds everybody's pages",
			todo: "mount with CAP_SYS_RESOURCE; a container needs --cap-add SYS_RESOURCE",
		}, {
			name: guardCgroup, must: true, optional: true, check: checkCgroup,
			why: "at a limit of memory or CPU, or frozen, the daemon stands still " +
				"and with it everybody who waits for a page",
			todo: "start zramfs outside of that cgroup, as deploy/systemd does with a slice of its own",
		}, {
			name: guardHeap, must: true, optional: true, check: checkHeap,
			why:  "a collector's cycle stops all threads, perhaps while one waits for memory; a heap that grows needs memory",
			todo: "this is a bug of zramfs if it lasts: report it with the output of zramfs get MOUNTPOINT memory_stat",
		}, {
			name: guardSteady, check: checkSteady,
			why:  "a new thread or a page fault needs memory when there is none",
			todo: "look again: a worker that was just replaced settles first; if it lasts, report it",
		}, {
			name: guardReaders, must: true, check: checkReaders,
			why:  "a reader that is gone answers no requests: its CPU's requests wait for the others, and at last for ever",
			todo: "report it: readers go on after every error",
		}, {
			name: guardResend, check: checkResend,
			why:  "without it the requests that a worker had when it died are lost: the mount ends, and programs in swap with it",
			todo: "use Linux 6.9 or later, and mount as root with transport percpu",
		}, {
			name: guardStandby, optional: true, swapOnly: true, check: checkStandby, apply: awaitStandby,
			why:  "to start a new worker takes memory, which there may not be when the old one dies",
			todo: "mount without --no-standby; if it just took over, a new standby is there in a moment",
		},
	}
}

func checkLocked(in *inspection) finding {
	return in.each(func(p member) finding {
		mappings, err := host.Mappings(p.pid)
		if err != nil {
			return unknown(err)
		}
		var resident, loose, swapped int64
		for _, m := range mappings {
			resident += m.Resident
			swapped += m.Swapped
			if !m.Locked {
				loose += m.Resident
			}
		}
		seen := fmt.Sprintf("%s resident, %s of it not locked, %s swapped", HumanSize(resident), HumanSize(loose), HumanSize(swapped))
		switch {
		case loose == 0 && swapped == 0:
			return pass("%s", seen)
		case !in.capable(host.CapIPCLock):
			return lack("%s; no CAP_IPC_LOCK", seen)
		}
		return fail("%s", seen)
	})
}

func checkNoSwap(in *inspection) finding {
	if in.facts["noswap"] == "yes" {
		return pass("stored pages lie on a tmpfs that is never swapped")
	}
	return lack("stored pages lie in memory files, held in memory by the locks of processes")
}

// tableBytes is what the tables take for each page of the disk, at the least.
const tableBytes = 12

func checkTables(in *inspection) finding {
	bytes := in.after.memory["buffers"]
	mappings, err := host.Mappings(in.procs[1].pid)
	if err != nil {
		return unknown(err)
	}
	for _, m := range mappings {
		if m.Shared && m.Size == bytes && m.Resident < m.Size {
			return fail("request buffers: %s of %s populated", HumanSize(m.Resident), HumanSize(m.Size))
		}
	}
	have, need := in.after.memory["tables"], in.swap/pageSize*tableBytes
	if have < need {
		return fail("tables of %s, %s needed for %s of swap", HumanSize(have), HumanSize(need), HumanSize(in.swap))
	}
	return pass("tables of %s for %s of swap, request buffers of %s", HumanSize(have), HumanSize(in.swap), HumanSize(bytes))
}

func checkFlusher(in *inspection) finding {
	return in.each(func(p member) finding {
		threads := in.after.threads[p.pid]
		flushing := 0
		for _, t := range threads {
			if t.Flushing() {
				flushing++
			}
		}
		seen := fmt.Sprintf("%d of %d threads", flushing, len(threads))
		switch {
		case flushing == len(threads):
			return pass("%s", seen)
		case !in.capable(host.CapSysResource):
			return lack("%s; no CAP_SYS_RESOURCE", seen)
		}
		return fail("%s", seen)
	})
}

const oomNever = -1000

func checkOOM(in *inspection) finding {
	return in.each(func(p member) finding {
		score, err := host.OOMScore(p.pid)
		switch {
		case err != nil:
			return unknown(err)
		case score == oomNever:
			return pass("%d", score)
		case !in.capable(host.CapSysResource):
			return lack("%d, not %d; no CAP_SYS_RESOURCE", score, oomNever)
		}
		return fail("%d, not %d", score, oomNever)
	})
}

func applyOOM(in *inspection, _ *guardState) error {
	for _, p := range in.procs {
		if err := host.SetOOMScoreOf(p.pid, oomNever); err != nil && !gone(err) {
			return err
		}
	}
	return nil
}

func checkCgroup(in *inspection) finding {
	return in.each(func(p member) finding {
		limits, err := host.CgroupLimits(p.pid)
		if err != nil {
			return unknown(err)
		}
		if len(limits) > 0 {
			return fail("%s", strings.Join(limits, ", "))
		}
		path, err := host.Cgroup(p.pid)
		if err != nil {
			return unknown(err)
		}
		return pass("in %s, no limits", path)
	})
}

// readGarbage bounds what an attribute read leaves on the heap.
const readGarbage = 256 << 10

func checkHeap(in *inspection) finding {
	percent, told := in.after.memory["worker_gc_percent"]
	cycles := in.after.memory["worker_gc_cycles"] - in.before.memory["worker_gc_cycles"]
	grown := in.after.memory["worker_allocated"] - in.before.memory["worker_allocated"]
	seen := fmt.Sprintf("%d cycles and %s allocated in %s; %d cycles since the start, heap %s", cycles, HumanSize(grown),
		in.span(), in.after.memory["worker_gc_cycles"], HumanSize(in.after.memory["worker_heap"]))
	switch {
	case told && percent >= 0:
		return fail("the collector is on (%d %%): %s", percent, seen)
	case cycles != 0 || grown > readGarbage:
		return fail("%s", seen)
	}
	return pass("%s", seen)
}

// span is the time between the samples, for people.
func (in *inspection) span() string {
	return fmt.Sprintf("%.1f s", float64(in.after.at-in.before.at)/1e9)
}

func checkSteady(in *inspection) finding {
	all := in.each(func(p member) finding {
		before, after := in.before.threads[p.pid], in.after.threads[p.pid]
		if len(before) == 0 || len(after) == 0 {
			return finding{GuardUnknown, "ended meanwhile"}
		}
		added := 0
		var minor, major, readers int64
		for _, t := range after {
			i := slices.IndexFunc(before, func(b host.Thread) bool { return b.ID == t.ID })
			if i < 0 {
				added++
				continue
			}
			minor += t.MinorFaults - before[i].MinorFaults
			major += t.MajorFaults - before[i].MajorFaults
			if t.Policy == unix.SCHED_BATCH {
				readers += t.MinorFaults - before[i].MinorFaults
			}
		}
		seen := fmt.Sprintf("%d threads, %d new, %d major and %d minor faults", len(after), added, major, minor)
		if p.name == memberWorker {
			seen += fmt.Sprintf(", %d of readers", readers)
		}
		if added > 0 || major > 0 || readers > 0 {
			return fail("%s", seen)
		}
		return pass("%s", seen)
	})
	all.seen += " in " + in.span()
	return all
}

// checkReaders counts in /proc: a reader has an own file of /dev/fuse, beside
// the one of the mount, and runs SCHED_BATCH as nothing else does.
func checkReaders(in *inspection) finding {
	if in.facts[keyTransport] != TransportPercpu {
		return finding{GuardUnknown, "transport " + in.facts[keyTransport] + " tells nothing about its readers"}
	}
	worker := in.procs[1].pid
	files, err := host.OpenFiles(worker, "/dev/fuse")
	if err != nil {
		return unknown(err)
	}
	alive := 0
	for _, t := range in.after.threads[worker] {
		if t.Policy == unix.SCHED_BATCH {
			alive++
		}
	}
	switch configured := files - 1; {
	case alive == 0:
		return finding{GuardUnknown, fmt.Sprintf("%d configured, none runs SCHED_BATCH, so they cannot be told from others", configured)}
	case alive != configured:
		return fail("%d alive, %d configured", alive, configured)
	default:
		return pass("%d alive, %d configured", alive, configured)
	}
}

func checkResend(in *inspection) finding {
	switch again := in.facts["resend"] == "yes"; {
	case in.facts[keyTransport] == TransportGofuse:
		return lack("not with transport gofuse: the death of a worker ends the mount")
	case again && in.facts[keyTransport] == TransportRing:
		return pass("the keeper's rings still hold what a dead worker had; the keeper's own death ends the mount")
	case again:
		return pass("the kernel sends again what a dead worker had")
	}
	return lack("Linux %s has no FUSE_NOTIFY_RESEND: the death of a worker ends the mount", host.Version())
}

func checkStandby(in *inspection) finding {
	for _, p := range in.procs {
		if p.name == memberStandby {
			return pass("process %d", p.pid)
		}
	}
	if in.facts["resend"] != "yes" {
		return lack("none; without resend it could not take over")
	}
	return fail("none")
}

// standbyTime is how long a mount that was just made may take to make a standby.
const standbyTime = 10 * time.Second

// awaitStandby looks for one until there is one.
func awaitStandby(in *inspection, _ *guardState) error {
	for end := time.Now().Add(standbyTime); in.facts["resend"] == "yes" && time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if err := in.findProcesses(); err != nil || len(in.procs) > 2 {
			return err
		}
	}
	return nil
}
