package integration

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zramfs/zramfs/compress"
	"github.com/zramfs/zramfs/stable"
)

// twins are a device of the kernel's zram and one of ours to which the same is
// done. Wherever the answers differ, the test fails.
//
// Left out is where we differ on purpose: blanks around a value and signs before
// it, which are forgiven here; numbers with something behind them ("1x" is 1 to the kernel,
// an error here); disks larger than 16 TiB; limits that are reached (ENOSPC
// here, EIO there); algorithm_params of a device that has a size (the kernel
// took them until 2026, and did nothing).
type twins struct {
	t      *testing.T
	ours   *mnt
	id     string // of the kernel's device
	rng    *rand.Rand
	ready  bool
	held   [2]*os.File
	pages  [][]byte // to be written
	buf    []byte   // for O_DIRECT
	lastOp string
}

const (
	twinSize  = 8 << 20
	twinPages = twinSize / pageSize
)

// TestDifferential does 2,000 random stores and loads of attributes, and data
// I/O between them, to the kernel's zram and to ours.
func TestDifferential(t *testing.T) {
	need(t)
	id, ok := kernelZram(t)
	if !ok {
		t.Skip("needs the kernel's zram")
	}
	if !strings.Contains(kernelGet(t, id, "comp_algorithm"), "lz4") {
		t.Skip("needs a kernel whose zram has lz4")
	}
	m := mount(t, "--size", "1M", "--algorithm", "lz4")
	w := &twins{t: t, ours: m, id: id, rng: rand.New(rand.NewPCG(4096, uint64(long(1, os.Getpid()))))}
	w.pages, w.buf = clearlyOneOrTheOther(t), aligned(t, 16*pageSize)
	t.Cleanup(w.reset)
	w.reset()
	for range long(2000, 50000) {
		w.step()
		if t.Failed() {
			return
		}
	}
	w.compare()
}

// clearlyOneOrTheOther are pages of which any LZ4 says the same: that they
// compress, or that they do not.
func clearlyOneOrTheOther(t *testing.T) (pages [][]byte) {
	t.Helper()
	p, err := compress.ParseAlgorithm("lz4")
	if err != nil {
		t.Fatal(err)
	}
	codecs := compress.NewSet(1)
	id, err := codecs.Add(p)
	if err != nil {
		t.Fatal(err)
	}
	stream := codecs.Stream(0)
	stream.Lock()
	defer stream.Unlock()
	all := corpus(t)
	for off := 0; off < len(all); off += pageSize {
		page := all[off : off+pageSize]
		if n, err := stream.Compress(id, stable.Borrow(page, nil)); err == nil && len(n) < 3400 {
			pages = append(pages, page)
		}
	}
	return pages
}

// values to store. What begins with a dash of its own directory is of the class.
var twinValues = map[string][]string{
	"disksize":         {"8M", "8M\n", "8388608", "0x800000", "8191K", "040000000", "0", "text", "-1", "\n"},
	"reset":            {"1", "1\n", "0x1", "65535", "0", "text", "65536", "-1", "1.5", "\n"},
	"mem_limit":        {"0", "64M", "1G\n", "0x4000000", "67108865", "none", "-1", "\n"},
	"mem_used_max":     {"0", "0\n", "00", "1", "text", "-1", "0x0"},
	"comp_algorithm":   {"lz4", "lz4\n", "lz5", "LZ4", strings.Repeat("x", 128), strings.Repeat("x", 5000), "\n"},
	"algorithm_params": {"algo=lz4", "algo=lz4 level=1\n", "priority=0", "algo=lz5", "level", "level=x", "priority=4", "priority=-1", "dict=/no/such"},
	"compact":          {"1", "x\n", "0"},
	"idle":             {"all", "all\n", "text", "-1", "all all"},
	"initstate":        {"1"}, "mm_stat": {"1"}, "io_stat": {"0"}, "debug_stat": {""},
	"hot_add": {"1"}, "hot_remove": {"-1", "text", "777", "0x309"},
}

var twinReads = strings.Fields("disksize initstate comp_algorithm mm_stat io_stat debug_stat reset mem_limit mem_used_max compact algorithm_params nothing")

// path is where a file is; which is 0 for ours, 1 for the kernel's.
func (w *twins) path(which int, name string) string {
	dir, device := w.ours.point, "zram0"
	if which == 1 {
		dir, device = "", "zram"+w.id
	}
	switch {
	case strings.HasPrefix(name, "hot_"):
		return dir + "/sys/class/zram-control/" + name
	case name == "disk":
		return dir + "/dev/" + device
	}
	return dir + "/sys/block/" + device + "/" + name
}

// both does something to both, ours last, and wants the same errno.
func (w *twins) both(what string, do func(which int) error) error {
	w.t.Helper()
	w.lastOp = what
	theirs := errnoOf(w.t, do(1))
	ours := errnoOf(w.t, do(0))
	// A close of our disk reaches the daemon a moment later.
	if ours == syscall.EBUSY && theirs == 0 {
		await(w.t, what, func() bool { ours = errnoOf(w.t, do(0)); return ours != syscall.EBUSY })
	}
	if ours != theirs {
		w.t.Errorf("%s, ready %v, held %v: %d (%v), the kernel's %d (%v)", what, w.ready, w.held[0] != nil, ours, ours, theirs, theirs)
	}
	if ours == 0 {
		return nil
	}
	return ours
}

func errnoOf(t *testing.T, err error) (e syscall.Errno) {
	t.Helper()
	if err != nil && !errors.As(err, &e) {
		t.Fatal(err)
	}
	return e
}

// step is one random operation.
func (w *twins) step() {
	switch k := w.rng.IntN(10); {
	case k < 5:
		w.store()
	case k < 8:
		w.load()
	case k == 8 && !w.ready:
		w.init()
	case k == 8:
		w.hold()
	default:
		w.io()
	}
}

func (w *twins) store() {
	var names []string
	for name := range twinValues {
		if _, err := os.Stat(w.path(1, name)); err == nil { // a kernel may be built without it
			names = append(names, name)
		}
	}
	slices.Sort(names)
	name := names[w.rng.IntN(len(names))]
	value := twinValues[name][w.rng.IntN(len(twinValues[name]))]
	if name == "algorithm_params" && w.ready {
		return
	}
	err := w.both(fmt.Sprintf("%s = %.40q", name, value), func(which int) error { return store(w.path(which, name), value) })
	switch {
	case err != nil:
	case name == "reset":
		w.ready = false
		w.lz4()
	case name == "disksize":
		w.ready = true
	}
}

func (w *twins) lz4() {
	_ = w.both("comp_algorithm = lz4", func(which int) error { return store(w.path(which, "comp_algorithm"), "lz4") })
}

func (w *twins) init() {
	w.ready = w.both("disksize = 8M", func(which int) error { return store(w.path(which, "disksize"), "8M") }) == nil
}

// hold opens both disks, or lets them go.
func (w *twins) hold() {
	_ = w.both("open or close", func(which int) (err error) {
		if f := w.held[which]; f != nil {
			w.held[which] = nil
			return f.Close()
		}
		w.held[which], err = os.OpenFile(w.path(which, "disk"), os.O_RDONLY, 0)
		return err
	})
}

func (w *twins) reset() {
	for which := range w.held {
		if w.held[which] != nil {
			w.held[which].Close()
			w.held[which] = nil
		}
		await(w.t, "reset", func() bool { return store(w.path(which, "reset"), "1") == nil })
	}
	w.ready = false
	w.lz4()
}

// load reads an attribute of both: the same errno, and the same meaning.
func (w *twins) load() {
	name := twinReads[w.rng.IntN(len(twinReads))]
	var text [2]string
	if w.both("read "+name, func(which int) error {
		b, err := os.ReadFile(w.path(which, name))
		text[which] = string(b)
		return err
	}) != nil {
		return
	}
	switch name {
	case "mm_stat":
		w.compare()
	case "comp_algorithm":
		for _, s := range text {
			if !strings.Contains(s, "[lz4] ") {
				w.t.Errorf("comp_algorithm is %q, the kernel's %q", text[0], text[1])
			}
		}
	case "disksize", "initstate", "debug_stat", "io_stat":
		if !slices.Equal(strings.Fields(text[0]), strings.Fields(text[1])) {
			w.t.Errorf("%s is %q, the kernel's %q", name, text[0], text[1])
		}
	}
}

// compare compares mm_stat, each column by its meaning.
func (w *twins) compare() {
	w.t.Helper()
	ours, theirs := parseMemory(w.t, w.ours.get("mm_stat")), parseMemory(w.t, kernelGet(w.t, w.id, "mm_stat"))
	if ours.orig != theirs.orig || ours.limit != theirs.limit || ours.same != theirs.same ||
		ours.huge != theirs.huge || ours.hugeSince != theirs.hugeSince {
		w.t.Errorf("after %s: %+v, the kernel has %+v", w.lastOp, ours, theirs)
	}
	if far(ours.compr, theirs.compr, theirs.compr/8+pageSize) {
		w.t.Errorf("compr_data_size %d, the kernel's %d: too far for the same algorithm", ours.compr, theirs.compr)
	}
	for _, m := range []memory{ours, theirs} {
		if m.compr > m.used || (m.used == 0) != (m.compr == 0) {
			w.t.Errorf("%+v does not fit together", m)
		}
	}
}

// io writes, reads or punches a few pages of both disks.
func (w *twins) io() {
	n := 1 + w.rng.IntN(16)
	off := int64(w.rng.IntN(twinPages-n)) * pageSize
	b := make([]byte, 0, n*pageSize)
	for range n {
		b = append(b, w.page()...)
	}
	kind := w.rng.IntN(4)
	if kind == 0 && !w.ready {
		return // beyond its end a file has nothing to punch, and a block device an error
	}
	var back [2][]byte
	_ = w.both(fmt.Sprintf("I/O of kind %d, %d pages at %d", kind, n, off/pageSize), func(which int) error {
		f, err := os.OpenFile(w.path(which, "disk"), os.O_RDWR|unix.O_DIRECT, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		fd := int(f.Fd())
		switch kind {
		case 0:
			return unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, int64(len(b)))
		case 1:
			got, err := unix.Pread(fd, w.buf[:len(b)], off)
			back[which] = bytes.Clone(w.buf[:max(got, 0)])
			return err
		}
		copy(w.buf, b)
		_, err = unix.Pwrite(fd, w.buf[:len(b)], off)
		return err
	})
	if !bytes.Equal(back[0], back[1]) {
		w.t.Errorf("%s: the kernel's zram reads other bytes", w.lastOp)
	}
}

// page is of any kind that a disk sees.
func (w *twins) page() []byte {
	p := make([]byte, pageSize)
	switch w.rng.IntN(8) {
	case 0:
	case 1:
		copy(p, bytes.Repeat([]byte{byte(w.rng.Uint32()), 2, 3, 4, 5, 6, 7, 8}, pageSize/8))
	case 2:
		for i := range p {
			p[i] = byte(w.rng.Uint32())
		}
	default:
		return w.pages[w.rng.IntN(len(w.pages))]
	}
	return p
}
