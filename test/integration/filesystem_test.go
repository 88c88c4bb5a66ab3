package integration

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

// TestFileSystems fills a file system on a loop device with real data, mounts
// it again, reads everything back, and has its own checker look at it.
func TestFileSystems(t *testing.T) {
	for _, f := range []struct {
		name  string
		make  []string
		fsck  []string
		frees bool // fstrim gives back what a deleted file had, at once
	}{
		{"ext4", []string{"mkfs.ext4", "-q", "-F"}, []string{"e2fsck", "-f", "-n"}, true},
		{"xfs", []string{"mkfs.xfs", "-q", "-f"}, []string{"xfs_repair", "-n"}, true},
		{"btrfs", []string{"mkfs.btrfs", "-q", "-f"}, []string{"btrfs", "check"}, false},
	} {
		t.Run(f.name, func(t *testing.T) {
			need(t, "/dev/loop-control", f.make[0], f.fsck[0], "fstrim")
			m := mount(t, "--size", "512M", "--write-behind", "64")
			loop := m.attach()
			run(t, f.make[0], append(f.make[1:], loop)...)
			dir := filepath.Join(scratch(t), "fs")
			mountFS(t, f.name, loop, dir)
			sums := fill(t, dir, long(60<<20, 200<<20))
			run(t, "umount", dir)

			mountFS(t, f.name, loop, dir)
			verify(t, dir, sums)
			// Every second file goes, others come where it was.
			full := m.memory()
			i := 0
			for name := range sums {
				if i++; i%2 == 0 {
					if err := os.Remove(filepath.Join(dir, name)); err != nil {
						t.Fatal(err)
					}
					delete(sums, name)
				}
			}
			run(t, "sync", "-f", dir)
			run(t, "fstrim", dir)
			if trimmed := m.memory(); f.frees && trimmed.orig > full.orig*3/4 {
				t.Errorf("fstrim left %d of %d bytes", trimmed.orig, full.orig)
			}
			for name, sum := range fill(t, filepath.Join(dir, "again"), 10<<20) {
				sums[filepath.Join("again", name)] = sum
			}
			run(t, "umount", dir)
			run(t, f.fsck[0], append(f.fsck[1:], loop)...)
			mountFS(t, f.name, loop, dir)
			verify(t, dir, sums)
			run(t, "umount", dir)
			run(t, f.fsck[0], append(f.fsck[1:], loop)...)
		})
	}
}

// mountFS mounts a file system for the test; the test unmounts it.
func mountFS(t *testing.T, kind, device, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	run(t, "mount", "-t", kind, device, dir)
	t.Cleanup(func() {
		if t.Failed() {
			_ = command("umount", dir)
		}
	})
}

// fill writes files of corpus pages, of all lengths, and gives their checksums.
func fill(t *testing.T, dir string, total int) map[string][32]byte {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	pages := corpus(t)
	r := rand.New(rand.NewPCG(3, uint64(total)))
	sums := map[string][32]byte{}
	for total > 0 {
		n := 1 + r.IntN(1<<(8+r.IntN(14)))
		from := r.IntN(len(pages) - n)
		name := fmt.Sprintf("file-%d", len(sums))
		if err := os.WriteFile(filepath.Join(dir, name), pages[from:from+n], 0o644); err != nil {
			t.Fatal(err)
		}
		sums[name] = sha256.Sum256(pages[from : from+n])
		total -= n
	}
	return sums
}

// verify reads every file back.
func verify(t *testing.T, dir string, sums map[string][32]byte) {
	t.Helper()
	for name, sum := range sums {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if got := sha256.Sum256(text); !bytes.Equal(got[:], sum[:]) {
			t.Fatalf("%s does not hold what was written to it", name)
		}
	}
}
