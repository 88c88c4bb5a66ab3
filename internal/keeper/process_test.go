package keeper

import (
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zramfs/zramfs/internal/shm"
)

func pair(t *testing.T) (a, b *control) {
	t.Helper()
	a, file, err := controlPair()
	if err != nil {
		t.Fatal(err)
	}
	if b, err = adoptControl(file); err != nil {
		t.Fatal(err)
	}
	return a, b
}

// A region that was sent survives its sender, even when nobody has taken it
// out of the socket yet: that is what a kill -9 in the middle needs.
func TestDescriptorSurvivesItsSender(t *testing.T) {
	keeperEnd, workerEnd := pair(t)
	defer keeperEnd.close()
	source := shm.OpenSource()
	defer source.Close()
	w := &worker{control: workerEnd, source: source, regions: map[string]*shm.Region{}}
	r, err := w.Create("zram0", 8192)
	if err != nil {
		t.Fatal(err)
	}
	copy(r.Bytes(4096, 4), "kept")
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	workerEnd.close()

	m, files, err := keeperEnd.receive()
	if err != nil || len(files) != 1 || m.Kind != msgRegion || m.Name != "zram0" {
		t.Fatalf("got %+v, %v, %v", m, files, err)
	}
	var h held
	h.put(m.Name, files[0])
	defer h.close()
	text := make([]byte, 4)
	if _, err := h.regions["zram0"].ReadAt(text, 4096); err != nil || string(text) != "kept" {
		t.Errorf("region holds %q, %v", text, err)
	}
	if _, _, err := keeperEnd.receive(); !errors.Is(err, io.EOF) {
		t.Errorf("after the end: %v", err)
	}
}

// What a process said before it died is heard, even when something that was
// sent to it was never read.
func TestLastWords(t *testing.T) {
	keeperEnd, workerEnd := pair(t)
	defer keeperEnd.close()
	if err := keeperEnd.send(message{Kind: msgStop}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"zram0", "zram1"} {
		if err := workerEnd.send(message{Kind: msgDrop, Name: name}); err != nil {
			t.Fatal(err)
		}
	}
	workerEnd.close()
	for _, name := range []string{"zram0", "zram1"} {
		if m, _, err := keeperEnd.receive(); err != nil || m.Name != name {
			t.Errorf("got %+v, %v, want %s", m, err, name)
		}
	}
	if _, _, err := keeperEnd.receive(); !errors.Is(err, io.EOF) {
		t.Errorf("after the end: %v", err)
	}
}

// A region is made although the keeper is dead, and has left something unread:
// the next keeper gets it.
func TestRegionWithoutKeeper(t *testing.T) {
	for _, unread := range []bool{false, true} {
		keeperEnd, workerEnd := pair(t)
		defer workerEnd.close()
		source := shm.OpenSource()
		defer source.Close()
		w := &worker{control: workerEnd, source: source, regions: map[string]*shm.Region{}}
		if unread {
			if err := workerEnd.send(message{Kind: msgDrop}); err != nil {
				t.Fatal(err)
			}
		}
		keeperEnd.close()
		for _, name := range []string{"zram0", "zram1"} {
			r, err := w.Create(name, 8192)
			if err != nil {
				t.Fatalf("unread %t: %v", unread, err)
			}
			defer r.Close()
		}
		if len(w.regions) != 2 {
			t.Errorf("unread %t: %d regions are there for the next keeper", unread, len(w.regions))
		}
	}
}

func TestHeld(t *testing.T) {
	file := func() *os.File {
		f, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	var h held
	h.put("zram0", file())
	first := h.regions["zram0"]
	h.put("zram0", file()) // a device that is reset and set up again has the same name
	h.drop("zram0")
	h.drop("never")
	if _, err := first.Stat(); !errors.Is(err, os.ErrClosed) || len(h.regions) != 0 {
		t.Errorf("a region in the place of which another came is still open: %v", err)
	}
	h = held{point: file(), header: file(), buffers: file(), fuse: []*os.File{file(), file()}, cpus: []int{0}}
	defer h.close()
	roles, files := h.base()
	again := held{cpus: h.cpus}
	if err := again.take(roles, files); err != nil {
		t.Fatal(err)
	}
	if again.point != h.point || again.header != h.header || again.buffers != h.buffers || len(again.fuse) != 2 {
		t.Errorf("%+v became %+v", h, again)
	}
	for _, missing := range []func() error{
		func() error { return (&held{cpus: h.cpus}).take(roles, files[1:]) },
		func() error { return (&held{cpus: h.cpus}).take(roles[:4], files[:4]) }, // a reader's file
		func() error { return (&held{cpus: h.cpus}).take(roles[2:], files[2:]) }, // the header
	} {
		if err := missing(); err == nil || !strings.Contains(err.Error(), "missing") {
			t.Errorf("with descriptors missing: %v", err)
		}
	}
	if err := (&held{}).take([]string{"hat"}, files[:1]); err == nil {
		t.Error("an unknown role was taken")
	}
}

func TestHeader(t *testing.T) {
	r, err := shm.AdoptSource(nil).Create("header", headerSize)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := openHeader(r); err == nil {
		t.Error("a void header was taken")
	}
	h, err := makeHeader(r)
	if err != nil {
		t.Fatal(err)
	}
	if h.savedInit() != nil {
		t.Error("a fresh header has an INIT")
	}
	if err := h.saveInit(make([]byte, initBytes)); err == nil {
		t.Error("an INIT of a whole page was taken")
	}
	if err := h.saveInit([]byte("init")); err != nil {
		t.Fatal(err)
	}
	again, err := openHeader(r)
	if err != nil || string(again.savedInit()) != "init" {
		t.Errorf("the next worker finds %q, %v", again.savedInit(), err)
	}
	for what, tear := range map[string]*atomic.Uint64{
		"length of INIT":     h.length(),
		"length of a reason": &h.crash().reasonLen,
		"number of suspects": &h.crash().suspects,
	} {
		good := tear.Swap(1 << 20)
		if _, err := openHeader(r); err == nil {
			t.Errorf("a torn %s was taken", what)
		}
		tear.Store(good)
	}
	for _, other := range []byte{format - 1, format + 1} {
		r.Bytes(0, initBytes)[formatAt] = other
		if _, err := openHeader(r); err == nil || !strings.Contains(err.Error(), "format") {
			t.Errorf("format %d was taken: %v", other, err)
		}
	}
}

// A request that was open in two deaths by fault is condemned; one that was
// answered in between is forgotten.
func TestSuspects(t *testing.T) {
	c := &crashRecord{}
	c.accuse([]uint64{1, 2, 3})
	if got := c.condemned(); got != nil {
		t.Errorf("after one death: %v", got)
	}
	c.accuse([]uint64{2, 4})
	if got := c.condemned(); !slices.Equal(got, []uint64{2}) {
		t.Errorf("after two: %v", got)
	}
	c.accuse([]uint64{1, 4})
	if got := c.condemned(); !slices.Equal(got, []uint64{4}) {
		t.Errorf("after three: %v", got)
	}
	c.accuse(make([]uint64, 2*maxSuspects))
	if n := c.suspects.Load(); n != maxSuspects {
		t.Errorf("%d suspects", n)
	}
}

// A death counts once, however often it is noted, and also where a program that
// knows nothing of that has counted meanwhile.
func TestDeathsCountOnce(t *testing.T) {
	c := &crashRecord{}
	for i := range uint64(3) {
		c.goes(1)
		c.countDeath()
		c.countDeath()
		if n := c.deaths.Load(); n != i+1 {
			t.Errorf("%d deaths are counted, of %d", n, i+1)
		}
	}
	c.deaths.Add(2)
	c.countDeath()
	if n := c.deaths.Load(); n != 6 {
		t.Errorf("%d deaths are counted, of 6", n)
	}
}

func TestSealedSelf(t *testing.T) {
	f, err := sealedSelf()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	exe, err := os.Stat("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if info, err := f.Stat(); err != nil || info.Size() != exe.Size() {
		t.Errorf("copy of %d bytes (%v), want %d", info.Size(), err, exe.Size())
	}
	if _, err := f.WriteAt([]byte{0}, 0); !errors.Is(err, unix.EPERM) {
		t.Errorf("write to the sealed program: %v", err)
	}
}

// TestWorkerEnv: what the runtime is told stays the same from one generation
// to the next, and the user's own words stay.
func TestWorkerEnv(t *testing.T) {
	const debug = "GODEBUG=asyncpreemptoff=1,profstackdepth=0"
	for _, c := range []struct{ env, want []string }{
		{nil, []string{debug, "GOGC=20"}},
		{[]string{"A=1", "GOGC=off"}, []string{"A=1", debug, "GOGC=20"}},
		{[]string{"GODEBUG=madvdontneed=1", "B=2"},
			[]string{"B=2", "GODEBUG=madvdontneed=1,asyncpreemptoff=1,profstackdepth=0", "GOGC=20"}},
	} {
		got := workerEnv(c.env)
		if !slices.Equal(got, c.want) {
			t.Errorf("%q became %q, want %q", c.env, got, c.want)
		}
		if again := workerEnv(slices.Clone(got)); !slices.Equal(again, got) {
			t.Errorf("%q became %q the second time", got, again)
		}
	}
}
