package keeper

import (
	"errors"
	"io"
	"os"
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
	w := &worker{control: workerEnd, source: source}
	r, err := w.Create("zram0", 8192)
	if err != nil {
		t.Fatal(err)
	}
	copy(r.Bytes(4096, 4), "kept")
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	workerEnd.close()

	m, f, err := keeperEnd.receive()
	if err != nil || f == nil || m.Kind != msgRegion || m.Name != "zram0" {
		t.Fatalf("got %+v, %v, %v", m, f, err)
	}
	var h held
	h.take(incoming{m, f})
	defer h.close()
	names, files := h.list()
	if len(files) != 1 || names[0] != (descriptor{roleRegion, "zram0"}) {
		t.Fatalf("holds %v", names)
	}
	text := make([]byte, 4)
	if _, err := files[0].ReadAt(text, 4096); err != nil || string(text) != "kept" {
		t.Errorf("region holds %q, %v", text, err)
	}
	if _, _, err := keeperEnd.receive(); !errors.Is(err, io.EOF) {
		t.Errorf("after the end: %v", err)
	}
}

func TestHeldDrops(t *testing.T) {
	keeperEnd, workerEnd := pair(t)
	defer keeperEnd.close()
	defer workerEnd.close()
	w := &worker{control: workerEnd, source: shm.AdoptSource(nil)}
	var h held
	for range 2 { // a device that is reset and set up again has the same name
		r, err := w.Create("zram0", 4096)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		m, f, err := keeperEnd.receive()
		if err != nil {
			t.Fatal(err)
		}
		h.take(incoming{m, f})
		if _, files := h.list(); len(files) != 1 {
			t.Errorf("holds %d regions", len(files))
		}
	}
	file := h.regions["zram0"]
	h.take(incoming{message{Kind: msgDrop, Name: "zram0"}, nil})
	if _, files := h.list(); len(files) != 0 {
		t.Errorf("still holds %d regions", len(files))
	}
	if _, err := file.Stat(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("dropped region is still open: %v", err)
	}
	h.take(incoming{message{Kind: msgDrop, Name: "never"}, nil})
}

func TestHeader(t *testing.T) {
	r, err := shm.AdoptSource(nil).Create("header", headerSize)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	h, err := openHeader(r)
	if err != nil {
		t.Fatal(err)
	}
	if h.savedInit() != nil {
		t.Error("a fresh header has an INIT")
	}
	if err := h.saveInit(make([]byte, headerSize)); err == nil {
		t.Error("an INIT of a whole page was taken")
	}
	if err := h.saveInit([]byte("init")); err != nil {
		t.Fatal(err)
	}
	again, err := openHeader(r)
	if err != nil || string(again.savedInit()) != "init" {
		t.Errorf("the next worker finds %q, %v", again.savedInit(), err)
	}
	h.length().Store(headerSize)
	if _, err := openHeader(r); err == nil {
		t.Error("a torn length was taken")
	}
	h.page[7] = 9
	if _, err := openHeader(r); err == nil {
		t.Error("another format was taken")
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
