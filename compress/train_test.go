package compress

import (
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/zramfs/zramfs/internal/invariants"
	"github.com/zramfs/zramfs/internal/testpages"
)

// TestTrain: pages that it has not seen take less with a dictionary than without.
func TestTrain(t *testing.T) {
	if invariants.Enabled {
		t.Skip("needs a build without checks, which takes seconds of CPU time and no more")
	}
	var learn, others [][]byte
	for i, p := range testpages.Pages(t) {
		switch i % 32 {
		case 0:
			learn = append(learn, p)
		case 1:
			others = append(others, p)
		}
	}
	d, err := Train(learn)
	if err != nil {
		t.Fatal(err)
	}
	stored := func(p Params) (n int) {
		c, err := newZstd(p)
		if err != nil {
			t.Fatal(err)
		}
		for _, page := range others {
			n += len(c.(*zstdCodec).enc.EncodeAll(page, nil))
		}
		return n
	}
	with, without := stored(Params{Codec: "zstd", Level: 7, Dict: d}), stored(Params{Codec: "zstd", Level: 7})
	t.Logf("%d pages: %d bytes, with a dictionary of %d: %d", len(others), without, len(d), with)
	if with*100 > without*98 {
		t.Error("the dictionary is of little use")
	}
}

func TestTrainOnTooLittle(t *testing.T) {
	if _, err := Train(testpages.Pages(t)[:5]); !errors.Is(err, ErrInvalid) {
		t.Errorf("five pages: %v", err)
	}
	noise := make([][]byte, minSamples)
	r := rand.NewChaCha8([32]byte{})
	for i := range noise {
		noise[i] = make([]byte, PageSize)
		_, _ = r.Read(noise[i])
	}
	if d, err := Train(noise); err == nil {
		t.Logf("noise gives a dictionary of %d bytes", len(d))
	} else if !errors.Is(err, ErrInvalid) {
		t.Error(err)
	}
}
