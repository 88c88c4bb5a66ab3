package integration

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// What TestCounters writes, in pages, one kind after another.
const (
	realPages   = 200 // of the corpus, in which some are huge
	zeroPages   = 30
	samePages   = 20
	randomPages = 10
	allPages    = realPages + zeroPages + samePages + randomPages
)

func counted(t *testing.T) []byte {
	t.Helper()
	b := aligned(t, allPages*pageSize)
	n := copy(b, corpus(t)[1000*pageSize:(1000+realPages)*pageSize])
	n += zeroPages * pageSize
	for i := range samePages * pageSize {
		b[n+i] = "zramfs! "[i%8]
	}
	n += samePages * pageSize
	if _, err := rand.Read(b[n:]); err != nil {
		t.Fatal(err)
	}
	return b
}

// TestCounters compares the statistics with what was done, to the page, and
// with what the kernel's zram counts when the same is done to it.
func TestCounters(t *testing.T) {
	need(t)
	for _, frames := range []string{"0", "16"} {
		t.Run("write-behind="+frames, func(t *testing.T) {
			m := mount(t, "--size", "16M", "--algorithm", "lz4", "--write-behind", frames)
			disk := open(t, m.disk(0), os.O_RDWR|unix.O_DIRECT)
			pages := counted(t)
			quiet := func() memory {
				t.Helper()
				await(t, "the end of compression", func() bool { return m.stat("zramfs/memory_stat", "staged") == 0 })
				return m.memory()
			}
			kernel, compared := kernelZram(t)
			var theirs *os.File
			if compared {
				kernelSet(t, kernel, "comp_algorithm", "lz4")
				kernelSet(t, kernel, "disksize", "16M")
				theirs = open(t, "/dev/zram"+kernel, os.O_RDWR|unix.O_DIRECT)
				defer theirs.Close()
			}

			writeAt(t, disk, 0, pages)
			got := quiet()
			if got.orig != allPages*pageSize || got.same != zeroPages+samePages {
				t.Errorf("%+v after %d pages, %d of them same-filled", got, allPages, zeroPages+samePages)
			}
			if got.huge < randomPages || got.hugeSince != got.huge {
				t.Errorf("%d huge pages, %d since, at least %d expected", got.huge, got.hugeSince, randomPages)
			}
			if got.compr < got.huge*pageSize || got.compr > got.used || got.used > got.max {
				t.Errorf("sizes do not fit together: %+v", got)
			}
			blockState(t, m, got)
			classes(t, m, got)
			if compared {
				writeAt(t, theirs, 0, pages)
				their := parseMemory(t, kernelGet(t, kernel, "mm_stat"))
				if got.orig != their.orig || got.same != their.same {
					t.Errorf("%+v, the kernel has %+v", got, their)
				}
				// Another LZ4 finds other matches: a few pages are on the other side of the border.
				if far(got.huge, their.huge, 3) || far(got.compr, their.compr, their.compr/8) {
					t.Errorf("%+v, the kernel has %+v: too far for the same algorithm", got, their)
				}
				for _, name := range []string{"mm_stat", "io_stat", "debug_stat"} {
					sameForm(t, name, m.get(name), kernelGet(t, kernel, name))
				}
				form := regexp.MustCompile(`^(\[?[a-z0-9-]+\]? )+\n$`)
				for _, text := range []string{m.get("comp_algorithm"), kernelGet(t, kernel, "comp_algorithm")} {
					if !form.MatchString(text) || !strings.Contains(text, "[lz4] ") {
						t.Errorf("comp_algorithm is %q", text)
					}
				}
			}

			// Overwritten, huge pages are no more; they were.
			huge := got.huge
			clear(pages[(allPages-randomPages)*pageSize:])
			writeAt(t, disk, (allPages-randomPages)*pageSize, pages[(allPages-randomPages)*pageSize:])
			got = quiet()
			if got.huge != huge-randomPages || got.hugeSince != huge || got.same != zeroPages+samePages+randomPages ||
				got.orig != allPages*pageSize {
				t.Errorf("%+v after %d huge pages became zero", got, randomPages)
			}

			// Discards are counted in whole pages, also of what was empty.
			punch := func(f *os.File, off, n int64) {
				t.Helper()
				if err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n); err != nil {
					t.Fatal(err)
				}
			}
			punch(disk, 0, 100*pageSize)
			punch(disk, 8<<20, 50*pageSize)
			got = quiet()
			if got.orig != (allPages-100)*pageSize {
				t.Errorf("orig_data_size %d after 100 of %d pages went", got.orig, allPages)
			}
			if io := numbers(t, m.get("io_stat")); !slices.Equal(io, []int64{0, 0, 0, 150}) {
				t.Errorf("io_stat is %v, want 150 pages freed and no failures", io)
			}
			if compared {
				punch(theirs, 0, 100*pageSize)
				punch(theirs, 8<<20, 50*pageSize)
				sameForm(t, "io_stat", m.get("io_stat"), kernelGet(t, kernel, "io_stat"))
				if ours, its := numbers(t, m.get("io_stat")), numbers(t, kernelGet(t, kernel, "io_stat")); !slices.Equal(ours, its) {
					t.Errorf("io_stat is %v, the kernel's %v", ours, its)
				}
			}

			// The mark of most memory follows when it is told to, and nothing is left of nothing.
			punch(disk, 0, 16<<20)
			if got = quiet(); got.orig != 0 || got.compr != 0 || got.used != 0 || got.same != 0 || got.huge != 0 || got.hugeSince != huge {
				t.Errorf("%+v of an empty disk", got)
			}
			m.set("mem_used_max", "0")
			m.set("mem_limit", "5M")
			if got = m.memory(); got.max != 0 || got.limit != 5<<20 {
				t.Errorf("%+v after mem_used_max was set back and mem_limit set to 5M", got)
			}
		})
	}
}

func far(a, b, most int64) bool { return max(a-b, b-a) > most }

// sameForm compares the number of lines and columns, and the words.
func sameForm(t *testing.T, name, ours, theirs string) {
	t.Helper()
	digits := regexp.MustCompile(`[0-9]+`)
	form := func(text string) (lines []string) {
		for line := range strings.Lines(digits.ReplaceAllString(text, "0")) {
			lines = append(lines, strings.Join(strings.Fields(line), " "))
		}
		return lines
	}
	if !slices.Equal(form(ours), form(theirs)) {
		t.Errorf("%s is %q, the kernel's %q", name, ours, theirs)
	}
}

// blockState compares block_state with mm_stat: a line for each page held.
func blockState(t *testing.T, m *mnt, want memory) {
	t.Helper()
	line := regexp.MustCompile(`^ *(\d+) +\d+\.\d{6} ([s.][w.][h.][i.][r.][n.])\n$`)
	var pages, same, huge int64
	for text := range strings.Lines(m.get("block_state")) {
		f := line.FindStringSubmatch(text)
		if f == nil {
			t.Fatalf("block_state has a line %q", text)
		}
		if f[1] != fmt.Sprint(pages) {
			t.Fatalf("block_state: page %s, want %d", f[1], pages)
		}
		pages++
		same += int64(strings.Count(f[2], "s"))
		huge += int64(strings.Count(f[2], "h"))
	}
	if pages != want.orig/pageSize || same != want.same || huge != want.huge {
		t.Errorf("block_state has %d pages, %d same, %d huge; mm_stat says %+v", pages, same, huge, want)
	}
}

// classes compares the size classes with mm_stat and with each other.
func classes(t *testing.T, m *mnt, want memory) {
	t.Helper()
	lines := strings.Split(strings.TrimRight(m.get("classes"), "\n"), "\n")
	header := strings.Fields("class size 10% 20% 30% 40% 50% 60% 70% 80% 90% 99% 100% obj_allocated obj_used pages_used pages_per_zspage freeable")
	if !slices.Equal(strings.Fields(lines[0]), header) {
		t.Errorf("classes: the heading is %q", lines[0])
	}
	var used, pages, classSize int64
	rows := lines[1 : len(lines)-2]
	for _, row := range rows {
		n := numbers(t, row)
		if len(n) != len(header) {
			t.Fatalf("classes: %d columns in %q", len(n), row)
		}
		allocated, inUse, has, chain := n[13], n[14], n[15], n[16]
		var zspages int64
		for _, group := range n[2:13] {
			zspages += group
		}
		if n[1] <= classSize || inUse > allocated || zspages*chain != has || allocated != zspages*(chain*pageSize/n[1]) {
			t.Errorf("classes: %q does not add up", row)
		}
		classSize, used, pages = n[1], used+inUse, pages+has
	}
	if objects := want.orig/pageSize - want.same; used != objects || pages*pageSize != want.used {
		t.Errorf("classes: %d objects in %d pages, mm_stat has %d objects in %d bytes", used, pages, objects, want.used)
	}
	total := strings.Fields(lines[len(lines)-1])
	if lines[len(lines)-2] != "" || total[0] != "Total" || total[13] != fmt.Sprint(used) || total[14] != fmt.Sprint(pages) {
		t.Errorf("classes: the total is %q", lines[len(lines)-1])
	}
}

// TestStatus compares what status says with what is so.
func TestStatus(t *testing.T) {
	need(t, "/dev/loop-control", "jq")
	m := mount(t, "--size", "16M", "--mem-limit", "8M", "--stable", "wait", "--streams", "3", "--write-behind", "4")
	writeAt(t, open(t, m.disk(0), os.O_RDWR), 0, bytes.Repeat([]byte("status"), 5000))
	loop := m.attach()
	await(t, "the end of compression", func() bool { return m.stat("zramfs/memory_stat", "staged") == 0 })
	got := m.memory()
	query := `.[0] | "\(.name) \(.mountpoint) \(.disk) \(.disksize) \(.mem_limit) \(.stable) \(.streams) \(.loop[0]) \(.swap | length) ` +
		`\(.orig_data_size) \(.mem_used_total) \(.failed_writes)"`
	want := fmt.Sprintf("zram0 %s %s %d %d wait 3 %s 0 %d %d 0\n", m.point, m.disk(0), 16<<20, 8<<20, loop, got.orig, got.used)
	if text := run(t, "sh", "-c", `"$1" status --json "$2" | jq -r "$3"`, "sh", zramfsBinary, m.point, query); text != want {
		t.Errorf("status --json says %q, want %q", text, want)
	}
	want = fmt.Sprintf("zram0 16777216 %d %d lz4 3\n", got.orig, got.compr)
	if text := zramfs(t, "status", m.point, "--bytes", "--raw", "-n", "-o", "NAME,DISKSIZE,DATA,COMPR,ALGORITHM,STREAMS"); text != want {
		t.Errorf("status says %q, want %q", text, want)
	}
}
