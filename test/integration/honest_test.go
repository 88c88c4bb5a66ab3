package integration

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// honestEnv is for how many minutes TestMemoryHonest churns.
const honestEnv = "ZRAMFS_HONEST_MINUTES"

// allPss is the memory of all processes of a mount in bytes, what they share
// counted once.
func (m *mnt) allPss() (sum int64) {
	m.t.Helper()
	processes := 0
	for pid, args := range commandLines() {
		if len(args) < 3 || args[2] != m.point || filepath.Base(args[0]) != "zramfs" {
			continue
		}
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			continue // a command that has ended
		}
		_, rest, _ := strings.Cut(string(text), "\nPss:")
		kib, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
		if err != nil {
			m.t.Fatal(err)
		}
		processes++
		sum += kib << 10
	}
	if processes < 2 {
		m.t.Fatalf("%d processes of %s: keeper and worker were expected", processes, m.point)
	}
	return sum
}

// TestMemoryHonest exchanges pages of a disk at random for a long time. What
// the disk holds stays the same, only its places change: so the memory of all
// processes together must too.
func TestMemoryHonest(t *testing.T) {
	need(t)
	period := long(12*time.Second, 3*time.Minute)
	if text := os.Getenv(honestEnv); text != "" {
		minutes, err := strconv.Atoi(text)
		if err != nil {
			t.Fatalf("%s=%q: expected a number of minutes", honestEnv, text)
		}
		period = time.Duration(minutes) * time.Minute
	}
	const count = 3 * 8192
	m := mount(t, "--size", fmt.Sprint(2*count*pageSize), "--algorithm", "lz4")
	disk := open(t, m.disk(0), os.O_RDWR|unix.O_DIRECT)
	pages := corpus(t)
	page := func(id int) []byte { return pages[id%8192*pageSize:][:pageSize] }
	holds := make([]int, 2*count) // which page a slot holds; -1: none
	buf := aligned(t, 64*pageSize)
	for slot := range holds {
		holds[slot] = -1
		if slot < count {
			holds[slot] = slot
		}
	}
	for slot := 0; slot < count; slot += 64 {
		for i := range 64 {
			copy(buf[i*pageSize:], page(slot+i))
		}
		writeAt(t, disk, int64(slot)*pageSize, buf)
	}

	// exchange gives two slots each other's page, or what one has to an empty one.
	rng := rand.New(rand.NewPCG(5, 6))
	put := func(slot, id int) {
		holds[slot] = id
		if id < 0 {
			if err := unix.Fallocate(int(disk.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, int64(slot)*pageSize, pageSize); err != nil {
				t.Fatal(err)
			}
			return
		}
		copy(buf, page(id))
		writeAt(t, disk, int64(slot)*pageSize, buf[:pageSize])
	}
	var first, least, most int64
	start := time.Now()
	for at, n := time.Duration(0), 0; at < period; at = time.Since(start) {
		for range 2000 {
			a, b := rng.IntN(len(holds)), rng.IntN(len(holds))
			if idA, idB := holds[a], holds[b]; idA != idB {
				put(a, idB)
				put(b, idA)
			}
		}
		if at < period/10 {
			continue
		}
		now := m.allPss()
		if n++; first == 0 {
			first, least, most = now, now, now
		}
		least, most = min(least, now), max(most, now)
	}
	t.Logf("all processes: %d KiB after a tenth of %v, then %d to %d; %+v", first>>10, period, least>>10, most>>10, m.memory())
	if most > first+first*3/100 {
		t.Errorf("memory grew from %d to %d bytes while the content stayed the same", first, most)
	}
	for slot, id := range holds {
		if slot%long(37, 1) != 0 {
			continue
		}
		want := make([]byte, pageSize)
		if id >= 0 {
			want = page(id)
		}
		if _, err := disk.ReadAt(buf[:pageSize], int64(slot)*pageSize); err != nil || !bytes.Equal(buf[:pageSize], want) {
			t.Fatalf("slot %d does not hold page %d: %v", slot, id, err)
		}
	}
}
