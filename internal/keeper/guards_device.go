package keeper

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/zramfs/zramfs/internal/host"
)

// deviceGuards are what the loop devices must be before they are swap. What
// attach sets of a queue goes back when the device is detached, what swapon
// sets when the swap is forgotten.
func deviceGuards() []guard {
	return []guard{
		{
			name: guardDirect, must: true, check: checkDirect,
			why:  "without direct I/O every page lies in the page cache too; blocks below 4096 bytes cut pages in pieces",
			todo: "zramfs detach, then zramfs attach or swapon, which ask for both",
		}, {
			name: guardStable, must: true, optional: true, check: checkStable, apply: applyQueue("stable_writes", "1"),
			leave: setQueue("stable_writes", "0"),
			why:   "a page could change while it is being written, and what is stored would be neither the old nor the new",
			todo:  "write 1 to queue/stable_writes of the loop device before swapon, which looks once",
		}, {
			name: guardThrottle, optional: true, check: checkThrottle, apply: applyQueue("wbt_lat_usec", "0"),
			leave: setQueue("wbt_lat_usec", "-1"),
			why:   "the kernel holds back writes to a device that it finds slow: programs that must swap out wait for it",
			todo:  "write 0 to queue/wbt_lat_usec of the loop device",
		}, {
			name: guardFlight, optional: true, swapOnly: true, check: checkFlight, apply: applyFlight,
			why: "pages that are being swapped out are in the way until they are stored; more of them than the " +
				"reserve has room for, and storing them takes memory that is not there until they are stored",
			todo: "use zramfs swapon, which sets queue/nr_requests and queue/max_sectors_kb",
		}, {
			name: guardDiscard, must: true, optional: true, check: checkDiscard,
			why:  "without it a page that swap has freed stays stored until something else is written over it",
			todo: "use zramfs swapon, or swapon --discard",
		}, {
			name: guardWarm, optional: true, swapOnly: true, check: checkWarm, apply: applyWarm,
			why: "the first requests of swap need objects of loop and FUSE, and threads of the kernel, " +
				"at the very moment when memory is short",
			todo: "use zramfs swapon, which sends many requests at once beforehand",
		}, {
			// After warm, which shows which kworkers serve loop devices.
			name: guardKworkers, optional: true, swapOnly: true, check: checkKworkers, apply: applyKworkers,
			why:  "a thread of real-time priority may use half of what is below the last watermark, and is not kept waiting by others",
			todo: "use zramfs swapon; the kernel replaces such threads as it likes, so this is a help, not a promise",
		},
	}
}

func queuePath(device, file string) string {
	return filepath.Join("/sys/block", filepath.Base(device), "queue", file)
}

func checkDirect(in *inspection) finding {
	return in.eachLoop(func(path string) finding {
		dio, err := readNumber(filepath.Join("/sys/block", filepath.Base(path), "loop/dio"))
		if err != nil {
			return unknown(err)
		}
		block, err := readNumber(queuePath(path, "logical_block_size"))
		if err != nil {
			return unknown(err)
		}
		seen := fmt.Sprintf("direct I/O %s, blocks of %d bytes", yesNo(dio == 1), block)
		if dio != 1 || block != pageSize {
			return fail("%s", seen)
		}
		return pass("%s", seen)
	})
}

func checkStable(in *inspection) finding {
	return in.eachLoop(func(path string) finding {
		return setting(queuePath(path, "stable_writes"), func(n int64) bool { return n == 1 }, "1")
	})
}

func checkThrottle(in *inspection) finding {
	return in.eachLoop(func(path string) finding {
		file := queuePath(path, "wbt_lat_usec")
		if _, err := os.ReadFile(file); err != nil {
			return pass("this kernel has none") // the file is there, but cannot be read
		}
		return setting(file, func(n int64) bool { return n == 0 }, "0")
	})
}

// applyQueue sets a queue's file; the detach puts it back.
func applyQueue(file, value string) func(*inspection, *guardState) error {
	set := setQueue(file, value)
	return func(in *inspection, _ *guardState) error { return set(in) }
}

// setQueue writes a file of the queue of each loop device.
func setQueue(file, value string) func(*inspection) error {
	return func(in *inspection) error {
		for _, path := range in.loops {
			if err := host.WriteValue(queuePath(path, file), value); err != nil {
				return err
			}
		}
		return nil
	}
}

// checkFlight adds up what the loop devices may have under way.
func checkFlight(in *inspection) finding {
	total := int64(0)
	for _, path := range in.loops {
		requests, err := readNumber(queuePath(path, "nr_requests"))
		if err != nil {
			return unknown(err)
		}
		size, err := readNumber(queuePath(path, "max_sectors_kb"))
		if err != nil {
			return unknown(err)
		}
		total += requests * size << 10
	}
	_, room := reserve()
	if most := inFlight(len(in.loops)) * flightRequest * int64(len(in.loops)); total > most {
		return fail("up to %s under way, for a reserve of %s", HumanSize(total), HumanSize(room))
	}
	return pass("at most %s under way, for a reserve of %s", HumanSize(total), HumanSize(room))
}

func applyFlight(in *inspection, state *guardState) error {
	size, requests := strconv.Itoa(flightRequest>>10), strconv.FormatInt(inFlight(len(in.loops)), 10)
	for _, path := range in.loops {
		err := state.setQueue(in.point, queuePath(path, "max_sectors_kb"), size)
		if err = errors.Join(err, state.setQueue(in.point, queuePath(path, "nr_requests"), requests)); err != nil {
			return err
		}
	}
	return nil
}

// checkDiscard asks the disk whether swap has discarded anything: swapon does,
// once, if it will later too. /proc/swaps does not say.
func checkDiscard(in *inspection) finding {
	f := in.eachLoop(func(path string) finding {
		n, err := readNumber(queuePath(path, "discard_max_bytes"))
		if err != nil {
			return unknown(err)
		}
		if n == 0 {
			return fail("the loop device takes no discards")
		}
		return pass("the loop device takes discards")
	})
	if f.state != GuardPass || in.swap == 0 {
		return f
	}
	freed, err := in.freed()
	if err != nil {
		return unknown(err)
	}
	if freed <= in.notes.Freed {
		return fail("enabled without discard: no page was freed since")
	}
	return pass("%d pages freed since it became swap", freed-in.notes.Freed)
}

// freed is how many pages were ever discarded on the disk.
func (in *inspection) freed() (int64, error) {
	text, err := os.ReadFile(in.attribute("io_stat"))
	var ignored, freed int64
	columns(string(text), &ignored, &ignored, &ignored, &freed)
	return freed, err
}

func checkWarm(in *inspection) finding {
	if in.notes.Warmed == 0 {
		return fail("no requests were sent beforehand")
	}
	return pass("%d requests answered before it became swap, %d at once", in.notes.Warmed, host.WarmDepth)
}

func applyWarm(in *inspection, s *guardState) error {
	for i, path := range in.loops {
		if on, err := swapsOn(path); on || err != nil {
			return err
		}
		n, err := host.WarmLoop(path, i > 0)
		in.notes.Warmed += n
		if err != nil {
			return err
		}
	}
	freed, err := in.freed()
	if err != nil {
		return err
	}
	in.notes.Freed = freed
	swap := s.Swaps[in.point]
	swap.Warmed, swap.Freed = in.notes.Warmed, in.notes.Freed
	s.Swaps[in.point] = swap
	return errors.Join(in.findPools(s), s.save())
}
