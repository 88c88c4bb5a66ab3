package keeper

import (
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/zramfs/zramfs/internal/fuseconn"
)

// What a program that is built for tests can do wrong.
const (
	faultStart = "start" // its workers crash at start
	faultOlder = "older" // it is of the format before
	faultNewer = "newer" // it is of the format after
	faultCheck = "check" // it finds what it took over unsound
	faultDie   = "die"   // its workers die as soon as they serve
	faultHeir  = "heir"  // its workers crash when they are to take over
	faultWrite = "write" // its workers die of any write to the last page of a MiB
	faultLate  = "late"  // every request takes 1 to 100 ms more
)

// programFormat is the format that this program reads.
func programFormat() int {
	switch fault {
	case faultOlder:
		return format - 1
	case faultNewer:
		return format + 1
	}
	return format
}

// Version is the program's version.
func Version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

// hello is the first word of every worker.
type hello struct {
	Product string `json:"product"`
	Format  int    `json:"format"`
	Version string `json:"version"`
}

const product = "zramfs worker"

// check says whether a worker's program can work with this keeper. One of a
// newer format may read ours; it looks for itself.
func (h hello) check() error {
	switch {
	case h.Product != product:
		return Errorf(CodeUsage, "the program says it is %q, expected %q: it is not zramfs", h.Product, product)
	case h.Format < programFormat():
		return Errorf(CodeUsage, "the program (version %s) is older: it reads format %d, and what runs here has format %d: "+
			"use one that is at least as new", h.Version, h.Format, programFormat())
	}
	return nil
}

func (h hello) String() string { return fmt.Sprintf("%s (format %d)", h.Version, h.Format) }

// late is a Handler that keeps everybody waiting, for tests.
type late struct{ fuseconn.Handler }

func (l late) Serve(r *fuseconn.Request) (int, bool, syscall.Errno) {
	time.Sleep(time.Duration(1+rand.IntN(100)) * time.Millisecond)
	return l.Handler.Serve(r)
}

// deadly is a Handler that some requests kill, for tests.
type deadly struct{ fuseconn.Handler }

func (d deadly) Serve(r *fuseconn.Request) (int, bool, syscall.Errno) {
	if r.Op == fuseconn.Write && r.Offset%(1<<20) == 1<<20-pageSize {
		panic("a fault that was asked for")
	}
	return d.Handler.Serve(r)
}
