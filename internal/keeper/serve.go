package keeper

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"strconv"
	"time"

	"github.com/zramfs/zramfs/blockdev"
	"github.com/zramfs/zramfs/compress"
	"github.com/zramfs/zramfs/internal/fuseconn"
	"github.com/zramfs/zramfs/internal/fusefs"
	"github.com/zramfs/zramfs/internal/host"
	"github.com/zramfs/zramfs/internal/invariants"
	"github.com/zramfs/zramfs/internal/percpu"
	"github.com/zramfs/zramfs/internal/shm"
	"github.com/zramfs/zramfs/stable"
)

// plannedLoops is for how many loop devices the kernel's queue is sized.
const plannedLoops = 2

// service is what a worker serves with. A worker that waits has it ready, so
// that the order finds little left to do.
type service struct {
	set  *blockdev.Set
	tree *fusefs.Tree
	conn fuseconn.Conn
	cpu  heldConn // conn, unless this process mounts
}

// build makes the devices' set, the tree and the connection. Nothing of it
// touches what a worker that serves may be using.
func (w *worker) build() (*service, error) {
	config, err := w.deviceConfig()
	if err != nil {
		return nil, err
	}
	s := &service{}
	if s.set, err = blockdev.NewSet(config); err != nil {
		return nil, usageError("mount", err)
	}
	options := fusefs.Options{Segments: w.task.Config.Segments}
	if w.header.region != nil {
		options.Ledger = w.header.tree()
	}
	s.tree = fusefs.New(s.set, options)
	threads := workerThreads
	if w.task.Config.Backing.Path != "" {
		threads += backingThreads
	}
	spareThreads(threads)
	if !w.task.Config.leavesOut(guardHeap) {
		startHeap()
	}
	if err := errors.Join(host.PopulateProgram(), settleHeap()); err != nil {
		w.note("worker: %v", err)
	}
	if w.buffers == nil {
		return s, nil
	}
	s.cpu, err = newConn(fuseconn.PerCPUConfig{
		Config:   w.connConfig(s.tree),
		Main:     w.held.fuse[0],
		Clones:   w.held.fuse[1:],
		CPUs:     w.task.CPUs,
		Layout:   w.task.Layout,
		Memory:   w.buffers,
		SaveInit: w.header.saveInit,
	})
	s.conn = s.cpu
	return s, err
}

// connConfig is what the connection is made with.
func (w *worker) connConfig(tree *fusefs.Tree) fuseconn.Config {
	var handler fuseconn.Handler = tree
	switch fault {
	case faultWrite:
		handler = deadly{tree}
	case faultLate:
		handler = late{tree}
	}
	if w.task.Config.Null {
		handler = null{tree}
	}
	return fuseconn.Config{
		Handler:       handler,
		Tree:          tree,
		MaxBackground: w.maxBackground(),
		AllowOther:    w.task.Config.AllowOther,
	}
}

// maxBackground is how many background requests the kernel may have open.
func (w *worker) maxBackground() int {
	loops := max(plannedLoops, w.task.Config.Segments)
	if w.buffers == nil {
		return fuseconn.MaxBackground(loops)
	}
	return w.task.Layout.MaxBackground(loops)
}

// verifyTime is how long an upgrade waits for the verification: what has not
// shown by then is no reason to go back.
const verifyTime = 500 * time.Millisecond

// verify says whether what this worker took over is sound: what its Rebuild
// found, and what the verification that runs beside the I/O finds in a while.
func (w *worker) verify(set *blockdev.Set) {
	m := message{Kind: msgChecked}
	err := error(nil)
	if n := w.facts.found.Corrupt; n > 0 {
		err = fmt.Errorf("%d pages were found damaged", n)
	}
	if fault == faultCheck {
		err = errors.New("a fault that was asked for")
	}
	end := time.Now().Add(verifyTime)
	for _, d := range set.Devices() {
		done, total, damaged := d.Verified()
		for ; done < total && damaged == 0 && time.Now().Before(end); done, total, damaged = d.Verified() {
			time.Sleep(firstPause)
		}
		if damaged > 0 {
			err = errors.Join(err, fmt.Errorf("%s: %d pages are damaged", d.Name(), damaged))
		}
	}
	if err != nil {
		m.Failed = failureOf(fmt.Errorf("check: %w", err))
	}
	_ = w.tell(m) // a keeper that is gone does not upgrade
}

// serve answers requests until the mount is gone. What is shared is left as it
// is after an error: another worker may do better with it.
func (w *worker) serve(s *service) error {
	var poison []uint64
	if w.order.Resume {
		poison = w.judge()
		found, err := s.set.Adopt(w.adopted())
		if err != nil {
			return err
		}
		w.header.crash().recovered(found)
		w.facts.found = found
		w.dropUnused(s.set)
	} else if err := w.firstDisk(s.set); err != nil {
		return err
	}
	if err := s.tree.Resume(); err != nil {
		return err
	}
	if err := w.connect(s, poison); err != nil {
		return err
	}
	if !w.order.Resume { // else somebody waits, and it is done when they do not
		if err := settleHeap(); err != nil {
			w.note("worker: %v", err)
		}
	}
	w.facts.text = w.daemonFacts(s.conn)
	w.facts.resend.Store(w.resends(s.conn))
	if w.order.Resume {
		if err := s.cpu.Resend(); err != nil && !w.held.over() {
			return err
		}
		invariants.CrashPoint("crash.faults")
		w.header.crash().pageFaults.Store(host.PageFaults() - w.faults)
		invariants.CrashPoint("crash.faults.told")
	}
	if fault == faultHeir && w.order.Resume {
		panic("a fault that was asked for")
	}
	ready := message{Kind: msgReady, Notes: w.notes, Resend: w.resends(s.conn)}
	if err := w.tell(ready); err != nil && w.buffers == nil {
		return err // else the next keeper finds it serving
	}
	if fault == faultDie {
		time.AfterFunc(trialTime/2, func() { os.Exit(int(CodeFailure)) })
	}
	go w.publish(s.conn)
	if w.header.region != nil {
		stop := make(chan struct{})
		defer close(stop)
		keepRoom(openRoom(w.header.room()), s.set, s.cpu.Relieve, stop)
	}
	if w.order.Verify {
		go w.verify(s.set)
	}
	w.calm()
	if err := s.conn.Serve(); err != nil {
		return err
	}
	if len(w.held.fuse) == 0 || w.held.over() {
		w.releaseBackings() // the mount is gone, and with it the key
	}
	return nil
}

// adopted gives the regions away, to the devices.
func (w *worker) adopted() map[string]*shm.Region {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.regions)
}

// deviceConfig is what the set of devices is made with.
func (w *worker) deviceConfig() (blockdev.Config, error) {
	c := &w.task.Config
	streams := c.Streams
	if streams == 0 {
		cpus, err := percpu.Allowed()
		if err != nil {
			return blockdev.Config{}, err
		}
		streams = len(cpus)
	}
	w.facts.streams = streams
	config := blockdev.Config{
		Source:      w,
		Backing:     w,
		Streams:     streams,
		WriteBehind: c.WriteBehind,
		MemLimit:    c.MemLimit,
		RoomWait:    c.Patience,
		LimitPolicy: c.LimitPolicy,
		LimitWait:   c.Patience,
		Extra:       w.extraAttributes(),

		ReadDictionary: w.readDictionary,
		Memory:         w.appendProcesses,
	}
	if w.header.region != nil {
		config.Ledger = w.header.devices()
	}
	var err error
	if config.Rules, err = c.rules(); err != nil {
		return config, err
	}
	config.Machine = machineLoad()
	config.ReserveLow, config.ReserveHigh = reserve()
	config.Reach = reach
	if c.Segments > 0 {
		config.Reach = -1
	}
	if c.Segments > 0 && !c.leavesOut(guardUpkeep) {
		config.UpkeepThread = urgency().Apply
	}
	if c.leavesOut(guardReserve) {
		config.ReserveLow, config.ReserveHigh = 1, 1
	}
	if c.Algorithm != "" {
		if config.Algorithm, err = compress.ParseAlgorithm(c.Algorithm); err != nil {
			return config, &Error{CodeUsage, "algorithm", err}
		}
	}
	if config.Recompress, err = secondaries(c.Recompress); err != nil {
		return config, err
	}
	if c.Stable != "" {
		if config.Policy, err = stable.ParsePolicy(c.Stable); err != nil {
			return config, &Error{CodeUsage, "stable policy", err}
		}
	}
	return config, nil
}

// secondaries reads the algorithms that pages are compressed with again.
func secondaries(names []string) (all [3]compress.Params, err error) {
	if len(names) > len(all) {
		return all, Errorf(CodeUsage, "%d algorithms to recompress with: expected %d at most", len(names), len(all))
	}
	for i, name := range names {
		if all[i], err = compress.ParseAlgorithm(name); err == nil {
			err = all[i].Probe()
		}
		if err != nil {
			return all, &Error{CodeUsage, "recompress", err}
		}
	}
	return all, nil
}

// firstDisk makes zram0 as the mount was asked for.
func (w *worker) firstDisk(set *blockdev.Set) error {
	id, err := set.HotAdd()
	if err == nil {
		err = w.task.Config.Backing.store(set, id)
	}
	if file := w.task.Config.Dictionary; err == nil && file != "" {
		err = storeAttribute(set, id, "algorithm_params", "priority=1 dict="+file)
	}
	if err == nil {
		err = storeAttribute(set, id, "disksize", strconv.FormatInt(w.task.Config.Size, 10))
	}
	if err != nil {
		return usageError("mount", err)
	}
	return nil
}

// usageError gives the exit code to what the device found wrong.
func usageError(what string, err error) error {
	switch {
	case errors.Is(err, blockdev.ErrInvalid), errors.Is(err, blockdev.ErrNotBlock), errors.Is(err, compress.ErrUnknown):
		return &Error{CodeUsage, what, err}
	case errors.Is(err, blockdev.ErrBusy):
		return &Error{CodeBusy, what, err}
	}
	return fmt.Errorf("%s: %w", what, err)
}

func storeAttribute(set *blockdev.Set, id int, name, value string) error {
	for _, a := range set.Attributes() {
		if a.Name == name && a.Store != nil {
			return a.Store(set.Device(id), value)
		}
	}
	return fmt.Errorf("no attribute %s to store", name)
}

// connect mounts, or takes up the connection that the keeper made.
func (w *worker) connect(s *service, poison []uint64) error {
	if s.cpu == nil {
		conn, err := fuseconn.NewGoFuse(w.task.Config.Mountpoint, w.connConfig(s.tree), w.facts.streams)
		if err != nil {
			return err
		}
		s.conn = conn
		w.unmount = func() error { return host.Unmount(w.task.Config.Mountpoint, true) }
	} else {
		s.cpu.Succeed(w.header.savedInit(), poison)
		if err := s.cpu.Init(); err != nil {
			return initError(err)
		}
	}
	return nil
}
