package keeper

import (
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/zramfs/zramfs/blockdev"
	"github.com/zramfs/zramfs/internal/host"
)

// upkeepGuard is about the worker's thread that commits memory for the store.
func upkeepGuard() guard {
	return guard{
		name: guardUpkeep, optional: true, swapOnly: true, check: checkUpkeep,
		why:  "the thread that gets the store its memory competes for it with the programs that are being swapped out",
		todo: "use zramfs swapon, and with CAP_SYS_NICE; a container needs --cap-add SYS_NICE",
	}
}

func checkReserve(in *inspection) finding {
	floor, _ := reserve()
	if _, told := in.after.memory["reserve"]; !told {
		return pass("zram%d has no size, and needs none", in.device)
	}
	// Near the memory limit less is kept; older workers do not tell.
	for _, s := range []sample{in.before, in.after} {
		if target, told := s.memory[blockdev.KeyReserveTarget]; told {
			floor = min(floor, target/4*3)
		}
	}
	// It dips below its floor before it is filled up.
	have := max(in.before.memory["reserve"], in.after.memory["reserve"])
	if have < floor {
		return fail("%s populated, %s expected", HumanSize(have), HumanSize(floor))
	}
	return pass("%s populated, floor %s", HumanSize(have), HumanSize(floor))
}

// checkUpkeep looks at that thread and no other: some are urgent for a while, or
// for reasons of their own. Which it is only the worker knows; how urgent it is,
// /proc tells.
func checkUpkeep(in *inspection) finding {
	id, told := in.after.memory[blockdev.KeyUpkeep]
	switch {
	case !told:
		return finding{GuardUnknown, "this worker does not tell which thread it is"}
	case id == 0:
		return lack("the worker has no thread of its own for it")
	}
	threads := in.after.threads[in.procs[1].pid]
	i := slices.IndexFunc(threads, func(t host.Thread) bool { return int64(t.ID) == id })
	if i < 0 {
		return finding{GuardUnknown, fmt.Sprintf("thread %d ended meanwhile", id)}
	}
	t := threads[i]
	ordinary := fmt.Sprintf("thread %d is of ordinary priority (nice %d)", id, t.Nice)
	switch {
	case t.Policy == unix.SCHED_FIFO:
		return pass("thread %d, SCHED_FIFO %d", id, t.Priority)
	case t.Urgent():
		return pass("thread %d, nice %d, while there is no memory to be had", id, t.Nice)
	case !in.capable(host.CapSysNice):
		return lack("%s; no CAP_SYS_NICE", ordinary)
	case !host.MayBeUrgent():
		return lack("%s; this cgroup gives no real-time priority", ordinary)
	}
	return fail("%s", ordinary)
}
