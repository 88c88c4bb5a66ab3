package keeper

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/zramfs/zramfs/blockdev"
	"github.com/zramfs/zramfs/compress"
	"github.com/zramfs/zramfs/internal/fuseconn"
	"github.com/zramfs/zramfs/internal/fusefs"
	"github.com/zramfs/zramfs/internal/host"
	"github.com/zramfs/zramfs/internal/percpu"
	"github.com/zramfs/zramfs/internal/shm"
	"github.com/zramfs/zramfs/stable"
)

// plannedLoops is for how many loop devices the kernel's queue is sized.
const plannedLoops = 2

// serve builds the disk, the tree and the connection, and answers requests
// until the mount is gone.
func (w *worker) serve() error {
	var daemon string // complete before the first request is answered
	set, streams, err := w.makeDisks(func() string { return daemon })
	if err != nil {
		return err
	}
	tree := fusefs.New(set, fusefs.Options{Segments: w.task.Config.Segments})
	conn, err := w.connect(fuseconn.Config{
		Handler:       tree,
		Tree:          tree,
		MaxBackground: fuseconn.MaxBackground(max(plannedLoops, w.task.Config.Segments)),
		AllowOther:    w.task.Config.AllowOther,
	}, streams)
	if err != nil {
		return errors.Join(err, set.Close())
	}
	spareThreads(workerThreads)
	if err := errors.Join(host.PopulateProgram(), settleHeap()); err != nil {
		w.note("worker: %v", err)
	}
	daemon = w.daemonFacts(conn)
	if err := w.control.send(message{Kind: msgReady, Notes: w.notes}, nil); err != nil {
		return errors.Join(err, set.Close())
	}
	err = conn.Serve()
	return errors.Join(err, set.Close())
}

// makeDisks makes zram0 as the mount was asked for.
func (w *worker) makeDisks(daemon func() string) (*blockdev.Set, int, error) {
	c := &w.task.Config
	streams := c.Streams
	if streams == 0 {
		cpus, err := percpu.Allowed()
		if err != nil {
			return nil, 0, err
		}
		streams = len(cpus)
	}
	config := blockdev.Config{
		Source:      w,
		Streams:     streams,
		WriteBehind: c.WriteBehind,
		MemLimit:    c.MemLimit,
		Extra:       []blockdev.Attribute{daemonAttribute(daemon)},
		Memory:      w.appendProcesses,
	}
	if c.leavesOut(guardReserve) {
		config.ReserveLow, config.ReserveHigh = 1, 1
	}
	var err error
	if c.Algorithm != "" {
		if config.Algorithm, err = compress.ParseAlgorithm(c.Algorithm); err != nil {
			return nil, 0, &Error{CodeUsage, "algorithm", err}
		}
	}
	if c.Stable != "" {
		if config.Policy, err = stable.ParsePolicy(c.Stable); err != nil {
			return nil, 0, &Error{CodeUsage, "stable policy", err}
		}
	}
	set, err := blockdev.NewSet(config)
	if err != nil {
		return nil, 0, usageError("mount", err)
	}
	id, err := set.HotAdd()
	if err == nil {
		err = storeAttribute(set, id, "disksize", strconv.FormatInt(c.Size, 10))
	}
	if err != nil {
		return nil, 0, errors.Join(usageError("mount", err), set.Close())
	}
	return set, streams, nil
}

// usageError gives the exit code to what the device found wrong.
func usageError(what string, err error) error {
	if errors.Is(err, blockdev.ErrInvalid) || errors.Is(err, compress.ErrUnknown) {
		return &Error{CodeUsage, what, err}
	}
	return fmt.Errorf("%s: %w", what, err)
}

func storeAttribute(set *blockdev.Set, id int, name, value string) error {
	for _, a := range set.Attributes() {
		if a.Dir == blockdev.DirBlock && a.Name == name && a.Store != nil {
			return a.Store(set.Device(id), value)
		}
	}
	return fmt.Errorf("no attribute %s to store", name)
}

// connect takes up the connection that the keeper made, or mounts.
func (w *worker) connect(config fuseconn.Config, streams int) (fuseconn.Conn, error) {
	if len(w.fuse) == 0 {
		conn, err := fuseconn.NewGoFuse(w.task.Config.Mountpoint, config, streams)
		if err != nil {
			return nil, err
		}
		w.unmount = func() error { return host.Unmount(w.task.Config.Mountpoint, true) }
		return conn, nil
	}
	if w.header == nil || w.buffers == nil || len(w.fuse) != 1+len(w.task.CPUs) {
		return nil, fmt.Errorf("connect: %d files of /dev/fuse for %d CPUs, or no header or buffers",
			len(w.fuse), len(w.task.CPUs))
	}
	page, err := shm.Adopt(roleHeader, w.header)
	if err != nil {
		return nil, err
	}
	head, err := openHeader(page)
	if err != nil {
		return nil, err
	}
	buffers, err := shm.Adopt(roleBuffers, w.buffers)
	if err != nil {
		return nil, err
	}
	w.bufferBytes = buffers.Size()
	conn, err := fuseconn.NewPerCPU(fuseconn.PerCPUConfig{
		Config:   config,
		Main:     w.fuse[0],
		Clones:   w.fuse[1:],
		CPUs:     w.task.CPUs,
		Layout:   w.task.Layout,
		Memory:   buffers,
		SaveInit: head.saveInit,
		Resume:   head.savedInit(),
	})
	if err != nil {
		return nil, err
	}
	return conn, conn.Init()
}
