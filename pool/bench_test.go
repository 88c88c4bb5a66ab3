package pool

import (
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"testing"
)

// filled is a pool on shared memory with n objects of realistic sizes.
func filled(b *testing.B, n int) *rig {
	r := newRig(b, 128, 2, n+1000, onShm, reserve(4<<20, 16<<20))
	rng := rand.New(rand.NewPCG(11, 11))
	for i := range uint32(n) {
		r.store(int(i%2), i, sizes(rng))
	}
	r.maintain()
	return r
}

func BenchmarkPutFree(b *testing.B) {
	for _, n := range []int{64, 1400, 3600, PageSize} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			r := filled(b, 20000)
			data := make([]byte, n)
			// A few alive, so that the pair does not make and unmake a zspage.
			for i := range uint32(50) {
				if _, err := r.pool.Put(0, i, 0, data); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportAllocs()
			for b.Loop() {
				pl, err := r.pool.Put(0, 1, 2, data)
				if err != nil {
					b.Fatal(err)
				}
				if err := r.pool.Free(pl, n); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkOverwrite is the steady state of a disk: new objects of other
// sizes replace old ones at random.
func BenchmarkOverwrite(b *testing.B) {
	const owners = 40000
	r := filled(b, owners)
	rng := rand.New(rand.NewPCG(12, 12))
	data := make([]byte, PageSize)
	var lengths [4096]int
	var order [1 << 16]uint32
	for i := range lengths {
		lengths[i] = sizes(rng)
	}
	for i := range order {
		order[i] = rng.Uint32N(owners)
	}
	b.ReportAllocs()
	b.ResetTimer()
	for i := 0; i < b.N; i++ {
		s, n := &r.slots[order[i%len(order)]], lengths[i%len(lengths)]
		pl, err := r.pool.Put(i%2, 1, 2, data[:n])
		if errors.Is(err, ErrNoRoom) {
			b.StopTimer()
			r.maintain()
			b.StartTimer()
			continue
		}
		if err := r.pool.Free(s.place, s.size); err != nil {
			b.Fatal(err)
		}
		s.place, s.size = pl, n
	}
}

func BenchmarkGet(b *testing.B) {
	r := filled(b, 20000)
	data := make([]byte, 1400)
	pl, err := r.pool.Put(0, 1, 2, data)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.pool.Get(pl, 1, 2, len(data)); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkCompact reports the time per object moved.
func BenchmarkCompact(b *testing.B) {
	moved := int64(0)
	for b.Loop() {
		b.StopTimer()
		r := filled(b, 30000)
		rng := rand.New(rand.NewPCG(13, 13))
		for i := range uint32(30000) {
			if rng.IntN(2) == 0 {
				r.free(i)
			}
		}
		b.StartTimer()
		if _, err := r.pool.Compact(r); err != nil {
			b.Fatal(err)
		}
		moved += r.pool.Stats().Moved
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(moved), "ns/object")
}

func BenchmarkRebuild(b *testing.B) {
	r := filled(b, 100000)
	for b.Loop() {
		if err := r.pool.Rebuild(r.walk); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/100000, "ns/object")
}

func BenchmarkChecksum(b *testing.B) {
	r := newRig(b, 1, 1, 1)
	data := make([]byte, 1400)
	dst := make([]byte, 1400)
	var sum uint64
	for b.Loop() {
		copy(dst, data)
		sum += uint64(crc(r.pool, data))
	}
	_ = sum
}

// crc is what a Put spends on the sum.
func crc(p *Pool, data []byte) uint32 { return crc32.Update(1, p.poly, data) }
