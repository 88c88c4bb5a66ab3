package host

import (
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// Urgency is first on its CPU, and one of many while it takes memory where there
// is none. It allocates nothing.
func TestUrgency(t *testing.T) {
	runtime.LockOSThread() // never unlocked: the thread ends with the test
	policy := func() (policy uint32, nice int32) {
		attr, err := unix.SchedGetAttr(0, 0)
		if err != nil {
			t.Fatal(err)
		}
		return attr.Policy, attr.Nice
	}
	plenty, short := NewUrgency(0), NewUrgency(1<<62)
	plenty.Apply(false)
	if p, _ := policy(); p != unix.SCHED_FIFO {
		t.Skip("needs leave for real-time priority (CAP_SYS_NICE, or cgroups that give it)")
	}
	for _, c := range []struct {
		name   string
		u      *Urgency
		taking bool
		policy uint32
		nice   int32
	}{
		{"memory is short, and taken", short, true, unix.SCHED_NORMAL, fairNice},
		{"memory is short, and not taken", short, false, unix.SCHED_FIFO, 0},
		{"memory is taken, of which there is plenty", plenty, true, unix.SCHED_FIFO, 0},
	} {
		c.u.Apply(c.taking)
		if p, nice := policy(); p != c.policy || nice != c.nice {
			t.Errorf("%s: policy %d, nice %d; want %d, %d", c.name, p, nice, c.policy, c.nice)
		}
		threads, err := Threads(os.Getpid())
		if err != nil {
			t.Fatal(err)
		}
		for _, th := range threads {
			if th.ID == unix.Gettid() && !th.Urgent() {
				t.Errorf("%s: seen from /proc it is not urgent: %+v", c.name, th)
			}
		}
	}
	if n := testing.AllocsPerRun(10, func() { short.Apply(true); short.Apply(false) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
