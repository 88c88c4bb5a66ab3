package blockdev

import (
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/zramfs/zramfs/internal/invariants"
	"github.com/zramfs/zramfs/stable"
)

// configuration is one way to run a list of operations.
type configuration struct {
	codec   string
	policy  stable.Policy
	frames  int
	streams int
	compact bool // compaction runs all the time
}

func (c configuration) String() string {
	return fmt.Sprintf("%s,%v,frames=%d,streams=%d,compact=%v", c.codec, c.policy, c.frames, c.streams, c.compact)
}

// One list of operations under every configuration: what the reads give, and
// what the disk holds at the end, is the same everywhere. A failure prints the
// seed and the configuration, which is all it takes to run it again.
func TestMetamorphic(t *testing.T) {
	var all []configuration
	for _, codec := range []string{"lz4", "lz4hc", "zstd", "minlz", "s2", "deflate", "none"} {
		for _, policy := range []stable.Policy{stable.Snapshot, stable.Wait} {
			for _, frames := range []int{0, 1, 16} {
				for _, streams := range []int{1, 2, 5} {
					all = append(all, configuration{codec, policy, frames, streams, frames == 1})
				}
			}
		}
	}
	const size = 64 * PageSize
	seeds, operations := uint64(3), 400
	if testing.Short() || invariants.Enabled {
		seeds = 1
	}
	for seed := range seeds {
		r := rand.New(rand.NewPCG(seed, 11))
		ops := make([]operation, operations)
		for i := range ops {
			ops[i] = draw(t, r, size)
		}
		var want [sha256.Size]byte
		for i, c := range all {
			got, err := historyOf(t, c, ops, size)
			if err != nil {
				t.Fatalf("seed %d, %v: %v", seed, c, err)
			}
			if i == 0 {
				want = got
			} else if got != want {
				t.Fatalf("seed %d: the history under %v is not the one under %v", seed, c, all[0])
			}
		}
	}
}

// historyOf runs the operations and hashes everything that was read.
func historyOf(t *testing.T, c configuration, ops []operation, size int64) (sum [sha256.Size]byte, err error) {
	cfg := testConfig(t)
	cfg.Algorithm, cfg.Policy, cfg.WriteBehind, cfg.Streams = params(t, c.codec), c.policy, c.frames, c.streams
	d := newDevice(t, size, cfg)
	stop := make(chan struct{})
	compacted := make(chan error, 1)
	go func() {
		for c.compact {
			select {
			case <-stop:
				compacted <- nil
				return
			default:
			}
			if err := store(d, "compact", "1"); err != nil {
				compacted <- err
				return
			}
		}
		compacted <- nil
	}()
	h := sha256.New()
	for i, o := range ops {
		req := &Request{Off: o.off, Len: o.n, Stream: i % c.streams}
		switch o.kind {
		case 'w':
			req.Op, req.Data = OpWrite, o.fill
		case 'r':
			req.Op, req.Data = OpRead, make([]byte, o.n)
		case 'd', 'z':
			req.Op = OpDiscard
		default:
			continue
		}
		n, err := d.Do(req)
		if err != nil {
			return sum, fmt.Errorf("operation %d, %v: %w", i, o, err)
		}
		fmt.Fprintf(h, "%v gave %d\n", o, n)
		if o.kind == 'r' {
			h.Write(req.Data)
		}
	}
	close(stop)
	if err := <-compacted; err != nil {
		return sum, err
	}
	h.Write(read(t, d, int(size), 0))
	if err := d.Check(); err != nil {
		return sum, err
	}
	return [sha256.Size]byte(h.Sum(nil)), nil
}
