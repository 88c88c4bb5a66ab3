package keeper

import (
	"fmt"
	"os"
	"runtime/metrics"
	"strings"

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
	keyLocked     = "memory_locked"
	keyWarning    = "warning"
)

// daemonFacts is the text of daemon_stat: lines of a key and a value, constant
// while a worker serves. warning may come several times.
func (w *worker) daemonFacts(conn fuseconn.Conn) string {
	var b strings.Builder
	line := func(key string, value any) { fmt.Fprintf(&b, "%s %v\n", key, value) }
	line(keyKeeper, w.task.KeeperPID)
	line(keyWorker, os.Getpid())
	line(keyGeneration, w.task.Generation)
	line(keyTransport, conn.Transport())
	line(keyReason, w.transportReason())
	negotiated := conn.Negotiated()
	line("max_write", negotiated.MaxWrite)
	line("max_background", negotiated.MaxBackground)
	line("resend", yesNo(negotiated.Resend))
	line(keyLocked, yesNo(w.locked && (w.task.Locked || w.fuse == nil)))
	line("io_flusher", yesNo(w.task.Flusher && allFlush()))
	line("oom_score_adj", w.task.OOMScore)
	line("noswap", yesNo(w.source.NoSwap()))
	for _, note := range append(append([]string(nil), w.task.Notes...), w.notes...) {
		line(keyWarning, strings.ReplaceAll(note, "\n", " "))
	}
	return b.String()
}

func (w *worker) transportReason() string {
	if w.fuse == nil {
		return "a mount of its own needs CAP_SYS_ADMIN, or gofuse was asked for"
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

// daemonAttribute is the row that the worker adds to the table.
func daemonAttribute(text func() string) blockdev.Attribute {
	return blockdev.Attribute{
		Dir: blockdev.DirZramfs, Name: attrDaemon, Mode: 0o444,
		Help: "processes: pids, generation, transport, what the machine did not allow",
		Show: func(_ *blockdev.Device, b []byte) ([]byte, error) { return append(b, text()...), nil },
	}
}

// appendProcesses tells memory_stat what both processes take: bytes, threads,
// and cycles of the worker's collector.
func (w *worker) appendProcesses(b []byte) ([]byte, error) {
	for _, p := range []struct {
		name string
		pid  int
	}{{"keeper", w.task.KeeperPID}, {"worker", os.Getpid()}} {
		m, err := host.ProcessMemory(p.pid)
		if err != nil {
			return b, err
		}
		b = fmt.Appendf(b, "%[1]s_resident %[2]d\n%[1]s_shared %[3]d\n%[1]s_locked %[4]d\n%[1]s_swapped %[5]d\n%[1]s_threads %[6]d\n",
			p.name, m.Resident, m.Shared, m.Locked, m.Swapped, m.Threads)
	}
	heap := []metrics.Sample{{Name: metricCycles}, {Name: metricTotal}, {Name: metricAllocs}, {Name: metricPercent}}
	metrics.Read(heap)
	return fmt.Appendf(b, "worker_gc_cycles %d\nworker_heap %d\nworker_allocated %d\nworker_gc_percent %d\nbuffers %d\n",
		heap[0].Value.Uint64(), heap[1].Value.Uint64(), heap[2].Value.Uint64(), int64(heap[3].Value.Uint64()), w.bufferBytes), nil
}
