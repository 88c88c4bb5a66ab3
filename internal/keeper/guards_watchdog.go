package keeper

import (
	"fmt"
	"os"

	"github.com/zramfs/zramfs/internal/host"
)

// watchdogGuards is the one that the keeper sets itself when it is told about
// swap, so nothing is applied here.
func watchdogGuards() []guard {
	return []guard{{
		name: guardWatchdog, optional: true, swapOnly: true, check: checkWatchdog,
		why: "data that stop compressing all of a sudden may fill the store while swap has free slots; " +
			"the kernel then goes on trying, and the machine stalls",
		todo: "use zramfs swapon as root, where " + sysrqTrigger + " can be written",
	}}
}

func checkWatchdog(in *inspection) finding {
	text, err := os.ReadFile(in.attribute("zramfs/" + attrSwap))
	if err != nil {
		return unknown(err)
	}
	stat := pairs(string(text))
	seen := fmt.Sprintf("%d of %d segments enabled, fired %d times", stat["segments_enabled"], stat["segments_total"],
		stat["watchdog_fired"])
	switch err := host.Writable(sysrqTrigger); {
	case stat["watchdog_armed"] == 1:
		return pass("armed; %s", seen)
	case err != nil:
		return lack("not armed: %v; %s", err, seen)
	}
	return fail("not armed; %s", seen)
}
