package blockdev

import (
	"fmt"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/zramfs/zramfs/internal/invariants"
	"github.com/zramfs/zramfs/internal/testpages"
)

// How much of the pool's memory is objects, once half of all pages have been
// overwritten with others in random order: as they come, and after compaction.
// With ZRAMFS_LONG=1 on a disk of 1 GiB, of which the last zspage of each size
// class is a smaller part.
func TestDensity(t *testing.T) {
	if invariants.Enabled {
		t.Skip("needs a build without the race detector: it measures what no race changes")
	}
	slots, codecs, compacted := uint64(1<<15), []string{"lz4"}, 0.94
	if os.Getenv("ZRAMFS_LONG") == "1" {
		slots, codecs, compacted = 1<<18, []string{"lz4", "minlz", "zstd"}, 0.96
	}
	pages := testpages.Pages(t)
	for _, codec := range codecs {
		t.Run(codec, func(t *testing.T) {
			cfg := testConfig(t)
			cfg.Algorithm = params(t, codec)
			cfg.ReserveHigh = 32 << 20
			d := newDevice(t, int64(slots)*PageSize, cfg)
			content := func(slot, round uint64) []byte { return pages[(slot+round*4099)%uint64(len(pages))] }
			put := func(slot, round uint64) {
				q := &Request{Op: OpWrite, Data: content(slot, round), Off: int64(slot) * PageSize, Stream: int(slot % 2)}
				if n, err := d.Do(q); err != nil || n != PageSize {
					t.Fatalf("slot %d: %d, %v", slot, n, err)
				}
			}
			for slot := range slots {
				put(slot, 0)
			}
			round := make([]uint8, slots)
			rng := rand.New(rand.NewPCG(8, 9))
			for _, slot := range rng.Perm(int(slots))[:slots/2] {
				put(uint64(slot), 1)
				round[slot] = 1
			}
			density := func(when string, atLeast float64) {
				t.Helper()
				var orig, compr, used int64
				if _, err := fmt.Sscan(show(t, d, "mm_stat"), &orig, &compr, &used); err != nil {
					t.Fatal(err)
				}
				got := float64(compr) / float64(used)
				t.Logf("%s: %d MiB stored take %d MiB, density %.3f", when, orig>>20, used>>20, got)
				if got < atLeast {
					t.Errorf("density %.3f %s, want at least %.2f", got, when, atLeast)
				}
			}
			density("as they come", 0.90)
			if err := store(d, "compact", "1"); err != nil {
				t.Fatal(err)
			}
			density("after compaction", compacted)
			for slot := uint64(0); slot < slots; slot += 61 {
				wantPage(t, d, slot, content(slot, uint64(round[slot])))
			}
		})
	}
}
