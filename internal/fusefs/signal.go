package fusefs

import (
	"bytes"
	"os"
	"strconv"
	"syscall"
	"time"
)

// signalTime is how often one who has had a signal is looked at: the kernel says
// so once, whatever signals come after that.
const signalTime = 100 * time.Millisecond

// signalled waits, after an interrupt, for a signal that means it, or for over.
func signalled(pid uint32, over <-chan struct{}) {
	tick := time.NewTicker(signalTime)
	defer tick.Stop()
	for !ends(pid) {
		select {
		case <-over:
			return
		case <-tick.C:
		}
	}
}

// endings are the signals by which a program is told to end what it does, so
// they end a slow store where they are caught, too.
const endings = 1<<(syscall.SIGHUP-1) | 1<<(syscall.SIGINT-1) | 1<<(syscall.SIGQUIT-1) | 1<<(syscall.SIGTERM-1)

// harmless are those that end nobody who does not catch them.
const harmless = 1<<(syscall.SIGCHLD-1) | 1<<(syscall.SIGCONT-1) | 1<<(syscall.SIGURG-1) | 1<<(syscall.SIGWINCH-1) |
	1<<(syscall.SIGSTOP-1) | 1<<(syscall.SIGTSTP-1) | 1<<(syscall.SIGTTIN-1) | 1<<(syscall.SIGTTOU-1)

// ends says whether a signal that a thread has been sent ends what it does. The
// kernel interrupts a request for any: a timer, a child that ended, SIGURG by
// which the Go runtime stops its own threads. None at all is the freezer, which
// the machine's sleep waits for; who cannot be looked at gets the benefit, too.
func ends(pid uint32) bool {
	text, err := os.ReadFile("/proc/" + strconv.FormatUint(uint64(pid), 10) + "/status")
	if err != nil {
		return true
	}
	mask := func(name string) uint64 {
		_, rest, _ := bytes.Cut(text, []byte("\n"+name+":\t"))
		word, _, _ := bytes.Cut(rest, []byte("\n"))
		n, _ := strconv.ParseUint(string(word), 16, 64)
		return n
	}
	pending := (mask("SigPnd") | mask("ShdPnd")) &^ mask("SigBlk")
	return pending == 0 || meant(pending, mask("SigCgt"))
}

// meant says whether one of the pending signals ends a write.
func meant(pending, caught uint64) bool {
	return pending&endings != 0 || pending&^caught&^harmless != 0
}
