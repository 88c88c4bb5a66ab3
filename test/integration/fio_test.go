package integration

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// fioVerify is written and read back by fio with a checksum in each block.
// Discards go on beside it, or, where fio can, before each write.
const fioVerify = `
[global]
filename=%s
direct=1
randseed=%d
[verify]
ioengine=libaio
iodepth=16
size=%s
verify=crc32c
verify_fatal=1
buffer_compress_percentage=60
refill_buffers
`

// Every block size a user may choose, on the file. fio does not know discards
// of files, so another job makes them beside the first one.
const fioOnFile = fioVerify + `
rw=randwrite
bssplit=512/10:1k/5:4k/35:5k/10:64k/20:250k/10:1m/10
blockalign=512
[discard]
ioengine=falloc
rw=randtrim
bssplit=512/20:4k/20:5k/20:64k/20:1m/20
blockalign=512
offset=%[3]s
size=%[3]s
`

// A loop device has blocks of 4096 bytes. Each write follows a discard.
const fioOnLoop = fioVerify + `
rw=randtrimwrite
bssplit=4k/50:12k/10:64k/20:248k/10:1m/10
blockalign=4k
`

// TestFio has fio verify random writes of all sizes with discards between them.
func TestFio(t *testing.T) {
	need(t, "fio", "/dev/loop-control")
	size := long("48M", "512M")
	for _, frames := range []string{"0", "64"} {
		t.Run("write-behind="+frames, func(t *testing.T) {
			m := mount(t, "--size", long("128M", "2G"), "--write-behind", frames)
			for round := range long(2, 20) {
				fio(t, fmt.Sprintf(fioOnFile, m.disk(0), round+1, size))
			}
			if n := numbers(t, m.get("io_stat")); n[3] == 0 {
				t.Error("nothing was discarded on the file")
			}
			m.check()
			loop, before := m.attach(), numbers(t, m.get("io_stat"))
			for round := range long(2, 20) {
				fio(t, fmt.Sprintf(fioOnLoop, loop, round+1, size))
			}
			m.detach()
			after := numbers(t, m.get("io_stat"))
			if after[3] == before[3] {
				t.Error("nothing was discarded through the loop device")
			}
			if after[0] != 0 || after[1] != 0 {
				t.Errorf("io_stat counts failed reads or writes: %v", after)
			}
		})
	}
}

func fio(t *testing.T, jobs string) {
	t.Helper()
	file := filepath.Join(scratch(t), "jobs.fio")
	if err := os.WriteFile(file, []byte(jobs), 0o644); err != nil {
		t.Fatal(err)
	}
	run(t, "sh", "-c", `cd "$(dirname "$1")" && fio --eta=never "$1"`, "sh", file)
}

// TestModel does random writes, reads, discards and write-zeroes of any offset
// and length on the mounted file, beside the same on a slice of memory.
func TestModel(t *testing.T) {
	need(t)
	const size = 4 << 20
	pages := corpus(t)
	for _, flags := range [][]string{
		{"--write-behind", "8"},
		{"--transport", "gofuse", "--stable", "wait", "--write-behind", "2", "--algorithm", "deflate"},
	} {
		t.Run(flags[1], func(t *testing.T) {
			m := mount(t, append(flags, "--size", fmt.Sprint(size))...)
			disk := open(t, m.disk(0), os.O_RDWR)
			model := make([]byte, size)
			r := rand.New(rand.NewPCG(1, 2))
			for range long(3000, 100000) {
				off := r.Int64N(size)
				n := min(size-off, 1+r.Int64N(1<<r.IntN(18)))
				part := model[off : off+n]
				switch op := r.IntN(10); op {
				case 0, 1:
					mode := uint32(unix.FALLOC_FL_KEEP_SIZE)
					mode |= []uint32{unix.FALLOC_FL_PUNCH_HOLE, unix.FALLOC_FL_ZERO_RANGE}[op]
					if err := unix.Fallocate(int(disk.Fd()), mode, off, n); err != nil {
						t.Fatalf("fallocate mode %#x, %d bytes at %d: %v", mode, n, off, err)
					}
					clear(part)
				case 2, 3, 4, 5:
					from := r.IntN(len(pages) - int(n))
					copy(part, pages[from:])
					writeAt(t, disk, off, part)
				default:
					got := make([]byte, n)
					if _, err := disk.ReadAt(got, off); err != nil {
						t.Fatal(err)
					}
					if !bytes.Equal(got, part) {
						t.Fatalf("%d bytes at %d are not what was written", n, off)
					}
				}
			}
			if err := disk.Sync(); err != nil {
				t.Fatal(err)
			}
			if got := readAt(t, disk, 0, size); !bytes.Equal(got, model) {
				t.Fatal("the disk is not what was written")
			}
		})
	}
}
