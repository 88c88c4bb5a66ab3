package blockdev

import (
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zramfs/zramfs/internal/invariants"
	"github.com/zramfs/zramfs/internal/shm"
)

// The first lock of a slot makes no page of memory: a reader takes it, when
// there may be none.
func TestFirstLockDoesNotFault(t *testing.T) {
	if invariants.Enabled {
		t.Skip("needs a build without the race detector and the invariants, which take memory for a lock")
	}
	l, err := newLayout(1<<20, -1, 0, 4)
	if err != nil {
		t.Fatal(err)
	}
	source := shm.OpenSource()
	defer source.Close()
	r, err := source.Create("zram0", l.total)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	faults := func() int64 {
		var u unix.Rusage
		if err := unix.Getrusage(unix.RUSAGE_THREAD, &u); err != nil {
			t.Fatal(err)
		}
		return u.Minflt
	}
	// Several, since a heap that has been used before hides one.
	const tables = 64
	var all [tables]*table
	for i := range all {
		all[i] = newTable(r, l)
	}
	before := faults()
	for _, table := range all {
		for slot := range uint64(stripes) {
			table.lock(slot)
			table.unlock(slot)
		}
	}
	if n := faults() - before; n > tables {
		t.Errorf("%d page faults for the first locks of %d tables", n, tables)
	}
}
