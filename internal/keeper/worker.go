package keeper

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zramfs/zramfs/internal/host"
	"github.com/zramfs/zramfs/internal/shm"
)

// worker is the state of a worker's process, while it waits and when it serves.
type worker struct {
	task    assignment   // immutable after openWorker
	source  *shm.Source  // immutable after openWorker
	header  header       // immutable after openWorker; void if this process mounts
	buffers *shm.Region  // immutable after openWorker; nil if this process mounts
	order   order        // immutable once it serves
	locked  bool         // immutable after openWorker
	faults  int64        // when the order came; immutable once it serves
	notes   []string     // of the goroutine that runs serve
	unmount func() error // of gofuse; nil: the keeper unmounts. Immutable once it serves

	urgency *host.Urgency // of the thread that takes over

	stopping sync.Once
	facts    facts
	asking   asking // the keeper for populated memory

	mu       sync.Mutex
	control  *control               // guarded by mu once it serves: another keeper has another
	held     held                   // guarded by mu; its regions are those below
	regions  map[string]*shm.Region // guarded by mu; of devices, by name
	backings map[string]*os.File    // guarded by mu; of devices, by name
	ended    bool                   // guarded by mu; the mount is gone, and no keeper is needed
	keeper   time.Time              // when the last keeper was started; of the goroutine that watches it, as is the next
	keepers  int                    // in a row that died at once
}

// RunWorker is the hidden command: the worker's process.
func RunWorker() error {
	w, err := openWorker()
	if err != nil {
		return err
	}
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE) // the keeper decides
	nameProcess(nameStandby)
	if w.task.Config.Segments > 0 {
		// A goroutine that faults keeps its place in the runtime, and waits for memory
		// that only the readers can free: one place more than can run at once.
		runtime.GOMAXPROCS(runtime.NumCPU() + 1)
	}
	if err := host.Undumpable(); err != nil {
		w.note("%v", err)
	}
	if w.task.Config.leavesOut(guardLocked) {
		// As the keeper: an experiment.
	} else if err := host.LockMemory(); err != nil {
		w.note("worker: %v", err)
	} else {
		w.locked = true
	}
	service, err := w.stand()
	if err != nil {
		return errors.Join(err, w.fail(err))
	}
	w.faults = host.PageFaults()
	nameProcess(nameWorker)
	go w.watchKeeper()
	if err := w.serve(service); err != nil {
		return errors.Join(err, w.fail(err))
	}
	return nil
}

func (w *worker) fail(err error) error {
	return w.tell(message{Kind: msgFailed, Failed: failureOf(err)})
}

// openWorker says hello and takes what the keeper gives.
func openWorker() (*worker, error) {
	if fault == faultStart {
		panic("a fault that was asked for")
	}
	unix.CloseOnExec(controlFD)
	ctl, err := adoptControl(os.NewFile(controlFD, "control"))
	if err == nil {
		err = ctl.send(message{Kind: msgHello, Hello: &hello{product, programFormat(), Version()}})
	}
	if err != nil {
		return nil, &Error{CodeUsage, "worker is started by the keeper, not by hand", err}
	}
	m, files, err := ctl.receive()
	if err != nil || m.Kind != msgConfig || m.Worker == nil {
		return nil, &Error{CodeFailure, "worker got no assignment", err}
	}
	w := &worker{task: *m.Worker, control: ctl, regions: make(map[string]*shm.Region)}
	w.held.cpus, w.held.layout = w.task.CPUs, w.task.Layout
	if err := w.held.take(w.task.Roles, files); err != nil {
		return nil, errors.Join(err, w.fail(err))
	}
	w.source = shm.AdoptSource(w.held.source)
	return w, nil
}

// stand maps everything, and waits for the order to serve. Meanwhile it keeps
// up with what the keeper holds.
func (w *worker) stand() (*service, error) {
	if err := w.openShared(); err != nil {
		return nil, err
	}
	service, err := w.build()
	if err != nil {
		return nil, err
	}
	awaited := w.task.Regions
	mapper := startMapper()
	takeOver := func() {
		mapper.stop()
		w.hurry()
		mapper.finish()
		w.mapped()
	}
	for {
		if awaited == 0 {
			awaited--
			mapper.settle()                                // an upgrade kills the one that serves as soon as this is said
			_ = w.control.send(message{Kind: msgPrepared}) // a keeper that is gone is noticed below
		}
		m, files, err := w.control.receive()
		switch {
		case err != nil:
			w.alone(awaited < 0)
			takeOver()
			return service, nil
		case m.Kind == msgStop:
			os.Exit(int(CodeOK))
		case m.Kind == msgRegion && len(files) == 1 && isBacking(m.Name):
			w.putBacking(m.Name, files[0])
			awaited--
			continue
		case m.Kind == msgDrop && isBacking(m.Name):
			w.forgetBacking(m.Name)
		case m.Kind == msgRegion && len(files) == 1:
			mapper.drop(w.regions[m.Name])
			if err := w.adopt(m.Name, files[0]); err != nil {
				return nil, err
			}
			mapper.add(w.regions[m.Name])
			awaited--
			continue
		case m.Kind == msgDrop:
			mapper.drop(w.regions[m.Name])
			w.forget(m.Name)
		case m.Kind == msgGo && m.Order != nil:
			w.order = *m.Order
			takeOver()
			return service, nil
		}
		closeAll(files)
	}
}

// openShared maps what every worker of the mount uses.
func (w *worker) openShared() error {
	if w.held.header == nil {
		return nil
	}
	page, err := shm.Adopt(roleHeader, w.held.header)
	if err == nil {
		w.header, err = openHeader(page)
	}
	if err == nil {
		w.buffers, err = shm.Adopt(roleBuffers, w.held.buffers)
	}
	return err
}

// adopt maps a region of a device, in the place of one of the same name.
func (w *worker) adopt(name string, f *os.File) error {
	r, err := shm.Adopt(name, f)
	if err != nil {
		f.Close()
		return err
	}
	w.forget(name)
	w.pin(name, r)
	w.regions[name] = r
	return nil
}

func (w *worker) forget(name string) {
	if r := w.regions[name]; r != nil {
		_ = r.Close() // one that cannot be unmapped is no worse than one that is kept
		delete(w.regions, name)
	}
}

// alone is called when the keeper of a process that waits is gone. Mostly the
// one that serves starts another keeper, and that a standby of its own, so this
// process ends. If the one that serves is gone as well, this one takes its
// place; if it cannot, it clears the mount away. Who serves is asked now: since
// this process was started it may have changed.
func (w *worker) alone(prepared bool) {
	if w.header.region == nil {
		os.Exit(int(CodeFailure))
	}
	if w.onRing() {
		w.endRing()
	}
	c := w.header.crash()
	serves, serving := c.worker.Load(), (*os.File)(nil) // gone: it was just to be replaced
	if serves != 0 && serves != int64(os.Getpid()) {    // or the order to us was on its way
		var err error
		if serving, err = host.Watch(int(serves)); err != nil {
			os.Exit(int(CodeFailure))
		}
	}
	const pause = 10 // ms; who is stopped may start a keeper when it goes on
	for !host.Gone(serving, pause) {
		if !c.inCareOf(int64(w.task.Keeper), serves) || w.held.over() {
			os.Exit(int(CodeFailure))
		}
	}
	if !c.takeCare(int64(w.task.Keeper)) && !c.takeCare(serves) {
		os.Exit(int(CodeFailure))
	}
	if !prepared || w.held.over() {
		closeAll(w.held.fuse) // the last: whoever waits for an answer, clearing away included, gets an error
		w.clearAway()
		os.Exit(int(CodeFailure))
	}
	w.order = c.follow(int64(os.Getpid()), serves)
}

// clearAway ends the mount for everybody: users of the disk get errors, and
// nothing hangs.
func (w *worker) clearAway() {
	// It may be gone already, and then there are no loop devices on it.
	_ = host.ReleaseLoops(w.task.Config.Mountpoint)
	_ = host.Unmount(w.task.Config.Mountpoint, true)
}

func (w *worker) note(format string, args ...any) {
	w.notes = append(w.notes, fmt.Sprintf(format, args...))
}

// tell sends the keeper a message. One that is lost with its keeper is no
// loss: the next one learns everything anew.
func (w *worker) tell(m message, files ...*os.File) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.control.send(m, files...)
}

// watchKeeper does what the keeper says, and replaces it when it is gone.
func (w *worker) watchKeeper() {
	w.mu.Lock()
	c := w.control
	w.mu.Unlock()
	for {
		m, files, err := c.receive()
		closeAll(files)
		switch {
		case err != nil:
			c = w.replaceKeeper()
		case m.Kind == msgStop:
			w.stop()
		case m.Kind == msgPopulated && m.Range != nil:
			w.asking.answer(m)
		}
	}
}

// stop ends serving: the mount is gone, or will not be used. A reader that
// has not seen the end of its connection by then has nothing left to answer.
func (w *worker) stop() {
	w.stopping.Do(func() {
		w.mu.Lock()
		w.ended = true
		w.mu.Unlock()
		if w.unmount != nil {
			_ = w.unmount() // EINVAL when it is gone
		}
		time.AfterFunc(drainTime/2, func() { os.Exit(int(CodeFailure)) })
	})
}

// Create makes a region of a device and hands it to the keeper, which holds
// it from then on: a descriptor in the socket is held by the socket.
func (w *worker) Create(name string, size int64) (*shm.Region, error) {
	r, err := w.source.Create(name, size)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.control.send(message{Kind: msgRegion, Name: name}, r.File()); err != nil && !hungUp(err) {
		return nil, errors.Join(err, r.Close())
	}
	w.pin(name, r)
	w.regions[name] = r // and from here a new keeper gets it
	return r, nil
}

// Drop lets the keeper and this process forget a region.
func (w *worker) Drop(name string, r *shm.Region) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.regions[name] == r {
		delete(w.regions, name)
	}
	// A new keeper is not given it any more.
	_ = w.control.send(message{Kind: msgDrop, Name: name})
	_ = r.Close() // one that cannot be unmapped is no worse than one that is kept
}
