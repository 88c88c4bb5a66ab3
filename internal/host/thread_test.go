package host

import (
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Urgency takes either form, and allocates nothing.
func TestUrgency(t *testing.T) {
	runtime.LockOSThread() // never unlocked: the thread ends with the test
	policy := func() int {
		attr, err := unix.SchedGetAttr(0, 0)
		if err != nil {
			t.Fatal(err)
		}
		return int(attr.Policy)
	}
	u := NewUrgency(time.Millisecond, 10*time.Millisecond)
	u.Apply(false)
	if policy() != unix.SCHED_FIFO {
		t.Skip("needs leave for real-time priority (CAP_SYS_NICE, or cgroups that give it)")
	}
	u.Apply(true)
	if p := policy(); p != unix.SCHED_DEADLINE && p != unix.SCHED_FIFO {
		t.Errorf("policy %d when bounded", p)
	}
	if n := testing.AllocsPerRun(10, func() { u.Apply(true); u.Apply(false) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if p := policy(); p != unix.SCHED_FIFO {
		t.Errorf("policy %d afterwards", p)
	}
}
