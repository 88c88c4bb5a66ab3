package swapload

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/zramfs/zramfs/internal/testpages"
)

func newBase(t *testing.T) *Base {
	t.Helper()
	base, _, err := NewBase(testpages.Pages(t)[:300])
	if err != nil {
		t.Fatal(err)
	}
	return base
}

func TestCheckTellsWhatIsWrong(t *testing.T) {
	base := newBase(t)
	page := make([]byte, PageSize)
	for _, c := range []struct {
		name  string
		spoil func()
		want  Kind
	}{
		{"as written", func() {}, Whole},
		{"a bit flipped", func() { page[4000] ^= 1 }, Torn},
		{"a bit of the stamp flipped", func() { page[3] ^= 1 }, Torn},
		{"zeros", func() { clear(page) }, Torn},
		{"halves of two generations", func() {
			old := make([]byte, PageSize)
			base.Fill(old, 7, 1)
			copy(page[2048:], old[2048:])
		}, Torn},
		{"another page", func() { base.Fill(page, 8, 2) }, Misplaced},
		{"an older generation", func() { base.Fill(page, 7, 1) }, Stale},
	} {
		base.Fill(page, 7, 2)
		c.spoil()
		if got := base.Check(page, 7, 2); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

func TestRunFindsNothingWrongInSoundMemory(t *testing.T) {
	phases := map[string]int{}
	rep, err := Run(Config{Base: newBase(t), Pages: 2000, Touches: 5000, Seed: 1,
		Progress: func(phase string, done, of int) { phases[phase] = done }})
	if err != nil {
		t.Fatal(err)
	}
	if rep.Wrong != 0 || len(rep.Phases) != 4 || rep.Bytes != 2000*PageSize {
		t.Errorf("report: %+v", rep)
	}
	if got := rep.Phases[2].Rewritten; got != 2500 {
		t.Errorf("%d pages rewritten, want every second of 5000 touches", got)
	}
	if phases["fill"] != 2000 || phases["random"] != 5000 || phases["final"] != 2000 {
		t.Errorf("progress ended at %v", phases)
	}
	if _, err := Run(Config{Base: newBase(t)}); err == nil {
		t.Error("a run of no pages was accepted")
	}
}

func TestRunCountsAnUnreadablePage(t *testing.T) {
	l := &load{Config: Config{Base: newBase(t)}, rep: &Report{}, gens: make([]uint32, 1)}
	var p Phase
	file, err := os.Create(filepath.Join(t.TempDir(), "short"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	l.mem = mapBeyondEnd(t, file) // touching it is a SIGBUS
	l.verify(0, &p)
	if p.Wrong != 1 || l.rep.First[0].Kind != "unreadable" {
		t.Errorf("phase %+v, report %+v", p, l.rep)
	}
}

func TestDeviceRoundTrip(t *testing.T) {
	base := newBase(t)
	path := filepath.Join(t.TempDir(), "disk")
	const pages = 700 // not a multiple of a transfer
	if err := os.WriteFile(path, make([]byte, pages*PageSize), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := FillDevice(path, base, pages); err != nil {
		t.Fatal(err)
	}
	if wrong, err := VerifyDevice(path, base, pages); wrong != 0 || err != nil {
		t.Errorf("%d wrong, %v", wrong, err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("not this"), 512*PageSize+99); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if wrong, err := VerifyDevice(path, base, pages); wrong != 1 || err != nil {
		t.Errorf("after spoiling one page: %d wrong, %v", wrong, err)
	}
}
