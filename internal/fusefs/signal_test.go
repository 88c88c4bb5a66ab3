package fusefs

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

func TestMeant(t *testing.T) {
	bits := func(signals ...unix.Signal) (mask uint64) {
		for _, s := range signals {
			mask |= 1 << (s - 1)
		}
		return mask
	}
	for _, c := range []struct {
		pending, caught uint64
		want            bool
	}{
		{bits(unix.SIGKILL), 0, true},
		{bits(unix.SIGINT), bits(unix.SIGINT), true},
		{bits(unix.SIGALRM), 0, true},
		{bits(unix.SIGALRM), bits(unix.SIGALRM), false},
		{bits(unix.SIGURG, unix.SIGCHLD), bits(unix.SIGURG), false},
		{bits(unix.SIGURG, unix.SIGTERM), bits(unix.SIGURG, unix.SIGTERM), true},
		{bits(unix.SIGTSTP), 0, false},
	} {
		if got := meant(c.pending, c.caught); got != c.want {
			t.Errorf("pending %x, caught %x: %v, want %v", c.pending, c.caught, got, c.want)
		}
	}
	if !ends(uint32(os.Getpid())) {
		t.Error("nothing is pending, as for the freezer, and it does not end")
	}
	if !ends(1 << 30) {
		t.Error("a thread that is gone waits for nothing")
	}
}
