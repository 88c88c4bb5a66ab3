package blockdev

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
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
	compact bool  // compaction runs all the time
	again   bool  // recompression runs all the time, of idle pages and others
	limit   int64 // bytes of memory; 0: none
	kills   bool  // the worker is killed now and then
}

func (c configuration) String() string {
	return fmt.Sprintf("%s,%v,frames=%d,streams=%d,compact=%v,again=%v,limit=%d,kills=%v",
		c.codec, c.policy, c.frames, c.streams, c.compact, c.again, c.limit, c.kills)
}

// configurations are all that are compared. What is not a dimension of its own
// goes with the others, each value with each value of the rest somewhere.
func configurations(size int64) (all []configuration) {
	for _, codec := range []string{"lz4", "lz4hc", "zstd", "minlz", "s2", "deflate", "brotli", "none"} {
		for _, policy := range []stable.Policy{stable.Snapshot, stable.Wait, stable.Refuse} {
			for i, frames := range []int{0, 1, 16, 0, 1, 16} {
				n := len(all)
				all = append(all, configuration{
					codec: codec, policy: policy, frames: frames, streams: []int{1, 2, 5}[n%3],
					compact: n%4 < 2, again: n%9 == 4, limit: int64(n%5/4) * 4 * size, kills: i >= 3,
				})
			}
		}
	}
	return all
}

// One list of operations under every configuration: what the reads give, and
// what the disk holds at the end, is the same everywhere, however often the worker
// is killed in between. A failure prints the seed and the configuration, which is
// all it takes to run it again.
func TestMetamorphic(t *testing.T) {
	const size = 64 * PageSize
	seeds, operations, step := uint64(1), 400, 1
	switch {
	case os.Getenv("ZRAMFS_LONG") == "1":
		seeds = 3
	case invariants.Enabled: // each operation costs ten times as much: every value of each dimension, and the plain build the rest
		operations, step = 120, 5
	}
	var kills, replayed, midway int
	for seed := range seeds {
		r := rand.New(rand.NewPCG(seed, 11))
		ops := make([]operation, operations)
		for i := range ops {
			if ops[i] = draw(t, r, size); i%20 == 10 {
				ops[i] = operation{kind: 'g'} // the size and the limit move, and come back
			}
		}
		var want [sha256.Size]byte
		for i, c := range configurations(size) {
			if i%step != 0 {
				continue
			}
			cfg := testConfig(t)
			cfg.Algorithm, cfg.Policy, cfg.WriteBehind = params(t, c.codec), c.policy, c.frames
			cfg.Streams, cfg.MemLimit = c.streams, c.limit
			if c.again {
				cfg.Recompress[0] = params(t, "zstd")
			}
			if c.kills { // many wait for room, and are sent again
				cfg.ReserveLow, cfg.ReserveHigh = 32<<10, 32<<10
			}
			g := newGenerations(t, size, cfg)
			got, err := historyOf(g, c, ops, size, seed)
			if err != nil {
				t.Fatalf("seed %d, %v: %v", seed, c, err)
			}
			g.end()
			kills, replayed, midway = kills+g.kills, replayed+g.replayed, midway+g.midway
			if i == 0 {
				want = got
			} else if got != want {
				t.Fatalf("seed %d: the history under %v is not the one under %v", seed, c, configurations(size)[0])
			}
		}
	}
	t.Logf("%d kills, %d of them in the middle of compression or compaction, %d requests sent again", kills, midway, replayed)
	if kills == 0 || midway == 0 || replayed == 0 {
		t.Error("some of these never happened")
	}
}

// historyOf runs the operations and hashes everything that was read.
func historyOf(g *generations, c configuration, ops []operation, size int64, seed uint64) (sum [sha256.Size]byte, err error) {
	stop := make(chan struct{})
	background := make(chan error, 2)
	go func() { background <- storeUntil(g, c.compact, stop, "compact", "1") }()
	go func() {
		background <- storeUntil(g, c.again, stop, "recompress", "", "idle", "all", "recompress", "type=idle max_pages=9")
	}()
	h := sha256.New()
	fates := rand.New(rand.NewPCG(seed, 13))
	for i, o := range ops {
		if o.kind == 'g' {
			d := g.device()
			if err := errors.Join(d.Resize(2*size), store(d, "mem_limit", "64K"), store(d, "mem_limit", fmt.Sprint(c.limit)), d.Resize(size)); err != nil {
				return sum, fmt.Errorf("operation %d: %w", i, err)
			}
			continue
		}
		request := func() *Request {
			req := &Request{Off: o.off, Len: o.n, Stream: i % c.streams}
			switch o.kind {
			case 'w':
				req.Op, req.Data = OpWrite, o.fill
			case 'r':
				req.Op, req.Data = OpRead, make([]byte, o.n)
			case 'd', 'z':
				req.Op = OpDiscard
			default:
				req.Op = OpFlush
			}
			return req
		}
		var fate *rand.Rand
		if c.kills && fates.IntN(25) == 0 {
			fate = fates
		}
		req, n, err := g.do(request, fate)
		for errors.Is(err, ErrRefused) { // whoever chose refuse retries
			runtime.Gosched()
			req, n, err = g.do(request, nil)
		}
		if err != nil {
			return sum, fmt.Errorf("operation %d, %v: %w", i, o, err)
		}
		fmt.Fprintf(h, "%v gave %d\n", o, n)
		if o.kind == 'r' {
			h.Write(req.Data)
		}
	}
	close(stop)
	for range cap(background) {
		if err := <-background; err != nil {
			return sum, err
		}
	}
	h.Write(read(g.t, g.device(), int(size), 0))
	return [sha256.Size]byte(h.Sum(nil)), nil
}

// storeUntil stores values all the time, one after the other, but while the worker
// is killed.
func storeUntil(g *generations, on bool, stop chan struct{}, values ...string) error {
	for i := 0; on; i = (i + 2) % len(values) {
		select {
		case <-stop:
			return nil
		default:
		}
		g.mu.RLock()
		err := store(g.d, values[i], values[i+1])
		g.mu.RUnlock()
		dying := errors.Is(err, ErrNoDevice) || errors.Is(err, context.Canceled)
		if err != nil && !dying && !errors.Is(err, ErrNoSpace) { // the limit is low
			return err
		}
	}
	return nil
}
