package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"time"
	"unsafe"

	"github.com/HdrHistogram/hdrhistogram-go"
	"golang.org/x/sys/unix"
)

// Kinds of requests: they index the sides of a job, and are aio's opcodes.
const (
	read = iota
	write
)

// side is what a job did of one kind.
type side struct {
	requests int64
	latency  *hdrhistogram.Histogram // nanoseconds
}

// job is one thread's work; that thread owns it.
type job struct {
	o    *options
	file *os.File
	data []byte // the corpus; shared, read only
	into []byte // where reads go: a request for each of depth
	rng  *rand.Rand
	next int64 // request in order, where the order is not random
	ios  [2]side
	done int64 // requests begun
}

// most is the longest latency that is told apart, in nanoseconds.
const most = int64(60 * time.Second)

func newJob(o *options, number int, f *os.File, data []byte) (*job, error) {
	into, err := unix.Mmap(-1, 0, o.bs*o.depth, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_POPULATE)
	if err != nil {
		return nil, fmt.Errorf("map buffers: %w", err)
	}
	j := &job{o: o, file: f, data: data, into: into, rng: rand.New(rand.NewPCG(uint64(number), 4096))}
	j.next = int64(number) * (o.size / int64(o.bs)) / int64(o.jobs)
	for i := range j.ios {
		j.ios[i].latency = hdrhistogram.New(100, most, 3)
	}
	return j, nil
}

// request is one that is to be done, or under way.
type request struct {
	kind  int
	off   int64
	buf   []byte
	began time.Time
}

// make chooses what to do next, with the buffer of a slot of depth.
func (j *job) make(slot int) request {
	n := j.o.size / int64(j.o.bs)
	at := j.next % n
	if strings.HasPrefix(j.o.rw, "rand") {
		at = j.rng.Int64N(n)
	}
	j.next++
	j.done++
	r := request{off: at * int64(j.o.bs), buf: j.into[slot*j.o.bs:][:j.o.bs]}
	switch j.o.rw {
	case "write", "randwrite":
		r.kind = write
	case "rw", "randrw":
		r.kind = int(j.rng.Uint32() & 1)
	}
	if r.kind == write {
		windows := (len(j.data)-j.o.bs)/pageSize + 1
		r.buf = j.data[j.rng.IntN(windows)*pageSize:][:j.o.bs]
	}
	return r
}

func (j *job) count(r *request, now time.Time) {
	s := &j.ios[r.kind]
	s.requests++
	_ = s.latency.RecordValue(min(most, int64(now.Sub(r.began)))) // within its range
}

// over says whether there is nothing more to begin.
func (j *job) over(now, end time.Time) bool {
	if j.o.pages > 0 {
		return j.done >= j.o.pages
	}
	return now.After(end)
}

func (j *job) run(end time.Time) error {
	if j.o.depth > 1 {
		return j.deep(end)
	}
	fd := int(j.file.Fd())
	for now := time.Now(); !j.over(now, end); {
		r := j.make(0)
		r.began = now
		var n int
		var err error
		if r.kind == write {
			n, err = unix.Pwrite(fd, r.buf, r.off)
		} else {
			n, err = unix.Pread(fd, r.buf, r.off)
		}
		if err != nil || n != len(r.buf) {
			return fmt.Errorf("%d of %d bytes at %d: %w", n, len(r.buf), r.off, err)
		}
		now = time.Now()
		j.count(&r, now)
	}
	return nil
}

// iocb and event are struct iocb and struct io_event of linux/aio_abi.h.
type iocb struct {
	data   uint64
	_      uint32 // key
	_      uint32 // flags
	opcode uint16
	_      int16 // priority
	fd     uint32
	buf    uintptr
	length uint64
	off    int64
	_      uint64
	_      uint32
	_      uint32
}

type event struct {
	data, obj uint64
	res, res2 int64
}

// deep keeps depth requests under way.
func (j *job) deep(end time.Time) error {
	var ctx uintptr
	if _, _, e := unix.Syscall(unix.SYS_IO_SETUP, uintptr(j.o.depth), uintptr(unsafe.Pointer(&ctx)), 0); e != 0 {
		return fmt.Errorf("io_setup: %w", e)
	}
	defer unix.Syscall(unix.SYS_IO_DESTROY, ctx, 0, 0)
	open, blocks := make([]request, j.o.depth), make([]iocb, j.o.depth)
	list, events := make([]*iocb, 0, j.o.depth), make([]event, j.o.depth)
	idle := make([]int, j.o.depth)
	for i := range idle {
		idle[i] = i
	}
	for {
		list = list[:0]
		for now := time.Now(); len(idle) > 0 && !j.over(now, end); {
			slot := idle[len(idle)-1]
			idle = idle[:len(idle)-1]
			r := j.make(slot)
			r.began = now
			open[slot] = r
			blocks[slot] = iocb{data: uint64(slot), opcode: uint16(r.kind), fd: uint32(j.file.Fd()),
				buf: uintptr(unsafe.Pointer(&r.buf[0])), length: uint64(len(r.buf)), off: r.off}
			list = append(list, &blocks[slot])
		}
		if len(idle) == j.o.depth {
			return nil
		}
		for rest := list; len(rest) > 0; {
			n, _, e := unix.Syscall(unix.SYS_IO_SUBMIT, ctx, uintptr(len(rest)), uintptr(unsafe.Pointer(&rest[0])))
			if e != 0 {
				return fmt.Errorf("io_submit: %w", e)
			}
			rest = rest[n:]
		}
		n, _, e := unix.Syscall6(unix.SYS_IO_GETEVENTS, ctx, 1, uintptr(len(events)), uintptr(unsafe.Pointer(&events[0])), 0, 0)
		if e == unix.EINTR {
			continue
		}
		if e != 0 {
			return fmt.Errorf("io_getevents: %w", e)
		}
		now := time.Now()
		for _, ev := range events[:n] {
			r := &open[ev.data]
			if ev.res != int64(len(r.buf)) {
				return fmt.Errorf("%d of %d bytes at %d", ev.res, len(r.buf), r.off)
			}
			j.count(r, now)
			idle = append(idle, int(ev.data))
		}
		runtime.KeepAlive(blocks)
	}
}
