package keeper

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/zramfs/zramfs/internal/host"
)

// tree makes files as a mount has them.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	point := t.TempDir()
	for name, text := range files {
		path := filepath.Join(point, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return point
}

func TestAttributePath(t *testing.T) {
	point := tree(t, map[string]string{
		"sys/block/zram0/mm_stat":                   "",
		"sys/block/zram0/io_stat":                   "",
		"sys/block/zram0/comp_algorithm":            "",
		"sys/block/zram0/zramfs/stable_stat":        "",
		"sys/block/zram1/mm_stat":                   "",
		"sys/kernel/debug/zsmalloc/zram0/classes":   "",
		"sys/kernel/debug/zram/zram0/block_state":   "",
		"sys/class/zram-control/hot_add":            "",
		"sys/block/zram0/zramfs/never/a_file_below": "",
	})
	for name, want := range map[string]string{
		"mm_stat":            "sys/block/zram0/mm_stat",
		"zram1/mm_stat":      "sys/block/zram1/mm_stat",
		"stable_stat":        "sys/block/zram0/zramfs/stable_stat",
		"zramfs/stable_stat": "sys/block/zram0/zramfs/stable_stat",
		"classes":            "sys/kernel/debug/zsmalloc/zram0/classes",
		"block_state":        "sys/kernel/debug/zram/zram0/block_state",
		"hot_add":            "sys/class/zram-control/hot_add",
	} {
		if got, err := attributePath(point, name, 0); got != filepath.Join(point, want) || err != nil {
			t.Errorf("%s: got %q, %v", name, got, err)
		}
	}
	_, err := attributePath(point, "mmstat", 0)
	wantError(t, err, CodeNoAttribute, `"mmstat"`, "nearest names are mm_stat, io_stat, ")
	_, err = attributePath(point, "mm_stat", 7)
	wantError(t, err, CodeNoAttribute, "no device zram7")
	_, err = attributePath(point, "zramX/mm_stat", 0)
	wantError(t, err, CodeUsage, "zramN/ATTRIBUTE")
}

func TestDeviceIDs(t *testing.T) {
	files := map[string]string{}
	for _, name := range []string{"zram0", "zram2", "zram10", "zram11"} {
		files[blockDir+"/"+name+"/initstate"] = "1\n"
	}
	ids, err := deviceIDs(tree(t, files))
	if want := []int{0, 2, 10, 11}; err != nil || !slices.Equal(ids, want) {
		t.Errorf("got %v, %v, want %v", ids, err, want)
	}
}

func TestLoopPolicy(t *testing.T) {
	for text, want := range map[string]Code{
		"[snapshot] wait refuse\n": CodeOK,
		"snapshot [wait] refuse\n": CodeOK,
		"snapshot wait [refuse]\n": CodeUsage,
	} {
		point := tree(t, map[string]string{"sys/block/zram0/zramfs/stable": text})
		wantError(t, checkLoopPolicy(point, 0), want)
	}
	if got := bracketed("lz4 [zstd] none\n"); got != "zstd" {
		t.Errorf("got %q", got)
	}
	if got := bracketed("lz4\n"); got != "lz4" {
		t.Errorf("got %q", got)
	}
}

func TestParseDaemon(t *testing.T) {
	got := parseDaemon("keeper_pid 10\nworker_pid 11\ngeneration 2\ntransport percpu\ntransport_reason may mount\n" +
		"memory_locked yes\nwarning one thing\nwarning another\nunknown 1\n")
	want := daemon{Keeper: 10, Worker: 11, Generation: 2, Transport: "percpu", Reason: "may mount", Locked: true,
		Warnings: []string{"one thing", "another"}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestStatusOfTree(t *testing.T) {
	base := "sys/block/zram0/"
	point := tree(t, map[string]string{
		base + "disksize":              "1073741824\n",
		base + "mm_stat":               " 8192 100 4096 0 12288 1 2 3 4\n",
		base + "io_stat":               "1 2 3 4\n",
		base + "debug_stat":            "version: 1\n       0        5\n",
		base + "zramfs/algorithm":      "zstd(level=3)\n",
		base + "zramfs/stable":         "snapshot [wait] refuse\n",
		base + "zramfs/stream_stat":    "stream ...\n0 1\n1 2\n",
		base + "zramfs/stable_stat":    "snapshots 7\n",
		base + "zramfs/memory_stat":    "pool 4096\n",
		base + "zramfs/integrity_stat": "corrupt 0\n",
		base + "zramfs/crash_stat":     "generations 3\nlast_reason signal: killed\n",
		base + "zramfs/swap_stat":      "segments_enabled 3\n",
		base + "zramfs/daemon_stat":    "keeper_pid 10\ntransport percpu\n",
	})
	s, err := deviceStatus(point, 0)
	if err != nil {
		t.Fatal(err)
	}
	s.use([]host.Loop{{Path: "/dev/loop3", Backing: s.Disk}, {Path: "/dev/loop4", Backing: "/else"}},
		[]host.Swap{{Path: "/dev/loop3", Size: 100, Used: 50, Priority: 9}})
	if s.Disksize != 1<<30 || s.OrigDataSize != 8192 || s.HugePagesSince != 4 || s.NotifyFree != 4 || s.MissFree != 5 ||
		s.Streams != 2 || s.Stable != "wait" || s.StableStat["snapshots"] != 7 || s.Keeper != 10 ||
		s.CrashStat["generations"] != 3 ||
		!reflect.DeepEqual(s.Loop, []string{"/dev/loop3"}) || s.Swap[0] != (SwapUse{"/dev/loop3", 100, 50, 9}) {
		t.Errorf("got %+v", s)
	}
	s.Mountpoint = "/a b"
	got, err := Table([]Status{s}, TableOptions{Columns: []string{"name", "DATA", "MOUNTPOINT", "LOOP", "COMP-RATIO"}})
	want := "NAME  DATA MOUNTPOINT LOOP       COMP-RATIO\nzram0   8K /a b       /dev/loop3     2.0000\n"
	if err != nil || got != want {
		t.Errorf("got\n%s(%v), want\n%s", got, err, want)
	}
	got, err = Table([]Status{s, {}}, TableOptions{Columns: []string{"DISKSIZE", "MOUNTPOINT"}, Raw: true, Bytes: true, NoHeadings: true})
	if want := "1073741824 /a\\x20b\n0 -\n"; err != nil || got != want {
		t.Errorf("got %q (%v), want %q", got, err, want)
	}
	_, err = Table(nil, TableOptions{Columns: []string{"SPEED"}})
	wantError(t, err, CodeUsage, "SPEED", "NAME,")
	if head := strings.Join(ColumnNames()[:13], " "); head != "NAME DISKSIZE DATA COMPR ALGORITHM STREAMS ZERO-PAGES TOTAL "+
		"MEM-LIMIT MEM-USED MIGRATED COMP-RATIO MOUNTPOINT" {
		t.Errorf("zramctl's columns became %q", head)
	}
}

// TestStatusOfDead: a mount that nobody serves still has its loop devices, and
// what is swap on them.
func TestStatusOfDead(t *testing.T) {
	s := deadStatus("/dead", []host.Loop{{Path: "/dev/loop3", Backing: "/dead/zram0.0"}, {Path: "/dev/loop4", Backing: "/dead/zram0.1"}},
		[]host.Swap{{Path: "/dev/loop4", Size: 100, Used: 50, Priority: 9}, {Path: "/dev/sda2", Size: 7}})
	if s.State != StateDead || !reflect.DeepEqual(s.Loop, []string{"/dev/loop3", "/dev/loop4"}) ||
		!reflect.DeepEqual(s.Swap, []SwapUse{{"/dev/loop4", 100, 50, 9}}) {
		t.Errorf("got %+v", s)
	}
}

func TestHumanSize(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0B", 1023: "1023B", 1024: "1K", 4 << 30: "4G", 66479718: "63.4M", 16 << 40: "16T", 1<<20 - 1: "1M",
	} {
		if got := HumanSize(n); got != want {
			t.Errorf("%d: got %s, want %s", n, got, want)
		}
	}
}
