package pool

import (
	"bufio"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
)

// lengths are those of real pages under LZ4, shuffled.
func lengths(t testing.TB) []int {
	t.Helper()
	f, err := os.Open("testdata/lz4-lengths.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var all []int
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		var length, pages int
		if strings.HasPrefix(lines.Text(), "#") {
			continue
		}
		if _, err := fmt.Sscan(lines.Text(), &length, &pages); err != nil {
			t.Fatal(err)
		}
		for range pages {
			all = append(all, length)
		}
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(14, 14))
	rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all
}

// TestDensity stores real lengths and compares with what the kernel's zsmalloc
// takes, which has one partly filled zspage per class: its geometry, without
// a page for streams.
func TestDensity(t *testing.T) {
	real := lengths(t)
	for _, c := range []struct {
		copies, slabs int
		excess        float64 // beyond zsmalloc's pages
	}{
		{1, 1, 0}, {1, 2, 0.01}, {1, 32, 0.01}, {8, 2, 0.02}, {8, 32, 0.03},
	} {
		r := newRig(t, c.copies*8, c.slabs, 0, onShm, reserve(1<<20, 4<<20))
		rng := rand.New(rand.NewPCG(15, 15))
		zsmalloc, bytes := make([]int64, len(r.pool.geo.classes)), int64(0)
		data := make([]byte, PageSize)
		for i := range c.copies * len(real) {
			n := real[i%len(real)]
			for {
				_, err := r.pool.Put(rng.IntN(c.slabs), uint32(i), 0, data[:n])
				if err == nil {
					break
				}
				if !errors.Is(err, ErrNoRoom) {
					t.Fatal(err)
				}
				r.maintain()
			}
			zsmalloc[r.pool.geo.classOf(n)]++
			bytes += int64(n)
		}
		least := int64(0)
		for n, objects := range zsmalloc {
			k := r.pool.geo.classes[n]
			least += (objects + int64(k.objects) - 1) / int64(k.objects) * int64(k.pages)
		}
		st := r.pool.Stats()
		t.Logf("%d copies, %d slabs: %d pages, zsmalloc %d; %.1f %% full",
			c.copies, c.slabs, st.Pages, least, 100*float64(bytes)/float64(st.Pages*PageSize))
		if excess := float64(st.Pages-least) / float64(least); excess > c.excess {
			t.Errorf("%d copies, %d slabs: %d pages, zsmalloc takes %d (%.1f %% more)",
				c.copies, c.slabs, st.Pages, least, excess*100)
		}
		if st.Bytes != bytes {
			t.Errorf("stored %d bytes, counted %d", bytes, st.Bytes)
		}
	}
}
