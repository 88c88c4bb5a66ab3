package keeper

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime/metrics"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/zramfs/zramfs/blockdev"
	"github.com/zramfs/zramfs/internal/fuseconn"
	"github.com/zramfs/zramfs/internal/host"
)

// attrDaemon is the attribute that tells about the processes.
const attrDaemon = "daemon_stat"

// Keys of daemon_stat that commands read back.
const (
	keyKeeper     = "keeper_pid"
	keyWorker     = "worker_pid"
	keyGeneration = "generation"
	keyTransport  = "transport"
	keyReason     = "transport_reason"
	keyStandby    = "standby_pid"
	keyVersion    = "version"
	keyResend     = "resend"
	keyCrash      = "crash"
	keyLocked     = "memory_locked"
	keyWarning    = "warning"
	keyNull       = "null"
)

// facts is what a worker tells about itself.
type facts struct {
	streams int                // immutable once the worker serves, as are the next two
	found   blockdev.Recovered // when it took over
	text    string             // of daemon_stat
	resend  atomic.Bool
}

// daemonFacts is the text of daemon_stat: lines of a key and a value, constant
// while a worker serves. warning may come several times.
func (w *worker) daemonFacts(conn fuseconn.Conn) string {
	var b strings.Builder
	line := func(key string, value any) { fmt.Fprintf(&b, "%s %v\n", key, value) }
	line(keyWorker, os.Getpid())
	line(keyGeneration, w.order.Generation)
	line(keyTransport, conn.Transport())
	line(keyReason, w.transportReason())
	line(keyVersion, Version())
	negotiated := conn.Negotiated()
	line("max_write", negotiated.MaxWrite)
	line("max_background", negotiated.MaxBackground)
	line(keyResend, yesNo(w.resends(conn)))
	line(keyCrash, w.crashMeans(conn))
	line(keyLocked, yesNo(w.locked && (w.task.Locked || w.buffers == nil)))
	line("io_flusher", yesNo(w.task.Flusher && allFlush()))
	line("oom_score_adj", w.task.OOMScore)
	line("noswap", yesNo(w.source.NoSwap()))
	notes := append([]string(nil), w.task.Notes...)
	if w.task.Config.Null {
		line(keyNull, yesNo(true))
	}
	for _, note := range w.notes {
		if !slices.Contains(notes, note) { // the worker before found the same
			notes = append(notes, note)
		}
	}
	for _, note := range notes {
		line(keyWarning, strings.ReplaceAll(note, "\n", " "))
	}
	return b.String()
}

// resends says whether the kernel sends again what a dead worker had read.
func (w *worker) resends(conn fuseconn.Conn) bool {
	return conn.Negotiated().Resend && w.buffers != nil && !w.task.Config.NoResend
}

// crashMeans says what the death of the worker would mean to who uses the disk.
func crashMeans(resend, held bool) string {
	switch {
	case resend:
		return "another worker takes over, and no request is lost"
	case held:
		return "the mount ends and who uses the disk gets I/O errors, since this kernel does not send requests again " +
			"(FUSE_NOTIFY_RESEND, Linux 6.9)"
	}
	return "the mount ends and who uses the disk gets I/O errors, as always with transport gofuse"
}

func (w *worker) transportReason() string {
	if w.buffers == nil {
		return "a mount of its own needs CAP_SYS_ADMIN, or gofuse was asked for"
	}
	if w.onRing() {
		return "was asked for: FUSE over io_uring, in rings that the keeper owns"
	}
	return "may mount: a thread and a /dev/fuse file for each CPU"
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// allFlush says whether every thread carries the flags of PR_SET_IO_FLUSHER.
func allFlush() bool {
	threads, flushing, err := host.ThreadsFlushing(os.Getpid())
	return err == nil && threads == flushing
}

// extraAttributes are the rows that the worker adds to the table.
func (w *worker) extraAttributes() []blockdev.Attribute {
	return []blockdev.Attribute{{
		Dir: blockdev.DirZramfs, Name: attrDaemon, Mode: 0o444,
		Help: "processes: pids, generation, transport, what the machine did not allow",
		Show: func(_ *blockdev.Device, b []byte) ([]byte, error) {
			b = fmt.Appendf(b, "%s %d\n%s %d\n", keyKeeper, w.keeperPID(), keyStandby, w.standbyPID())
			return append(b, w.facts.text...), nil
		},
	}, {
		Dir: blockdev.DirZramfs, Name: attrCrash, Mode: 0o444,
		Help: "deaths of workers: generations, last reason, last recovery, what was resent, reclaimed, suspected",
		Show: func(d *blockdev.Device, b []byte) ([]byte, error) { return appendVerified(w.appendCrash(b), d), nil },
	}, w.swapAttribute()}
}

// keeperPID is the keeper's number: who holds the header knows it best, as a
// keeper that died is replaced.
func (w *worker) keeperPID() int {
	if w.header.region == nil {
		return os.Getppid()
	}
	return int(w.header.crash().keeper.Load())
}

func (w *worker) standbyPID() int {
	if w.header.region == nil {
		return 0
	}
	return int(w.header.crash().standby.Load())
}

// appendProcesses tells memory_stat what the processes take: bytes, threads,
// and cycles of the worker's collector.
func (w *worker) appendProcesses(b []byte) ([]byte, error) {
	for _, p := range []struct {
		name string
		pid  int
	}{{"keeper", w.keeperPID()}, {"worker", os.Getpid()}, {"standby", w.standbyPID()}} {
		var m host.Memory
		if p.pid != 0 {
			var err error
			if m, err = host.ProcessMemory(p.pid); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return b, err // one that has just ended takes nothing
			}
		}
		b = fmt.Appendf(b, "%[1]s_resident %[2]d\n%[1]s_shared %[3]d\n%[1]s_locked %[4]d\n%[1]s_swapped %[5]d\n%[1]s_threads %[6]d\n",
			p.name, m.Resident, m.Shared, m.Locked, m.Swapped, m.Threads)
	}
	heap := []metrics.Sample{{Name: metricCycles}, {Name: metricTotal}, {Name: metricAllocs}, {Name: metricPercent}}
	metrics.Read(heap)
	buffers := int64(0)
	if w.buffers != nil {
		buffers = w.buffers.Size()
	}
	return fmt.Appendf(b, "worker_gc_cycles %d\nworker_heap %d\nworker_allocated %d\nworker_gc_percent %d\nbuffers %d\n",
		heap[0].Value.Uint64(), heap[1].Value.Uint64(), heap[2].Value.Uint64(), int64(heap[3].Value.Uint64()), buffers), nil
}
