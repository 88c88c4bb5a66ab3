package host

import (
	"os"
	"os/exec"
	"testing"
)

// CPUTime grows while a process runs, and is none where there is no process.
func TestCPUTime(t *testing.T) {
	before := CPUTime(os.Getpid())
	for n := 0; CPUTime(os.Getpid()) == before; n++ {
		if n == 1<<24 {
			t.Fatalf("this process runs, and %d ns are all it has taken", before)
		}
	}
	child := exec.Command("true")
	if err := child.Run(); err != nil {
		t.Skip(err)
	}
	for _, pid := range []int{child.Process.Pid, 0, -1} {
		if got := CPUTime(pid); got != 0 {
			t.Errorf("process %d, which is none, has taken %d ns", pid, got)
		}
	}
	if n := testing.AllocsPerRun(10, func() { CPUTime(os.Getpid()) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
