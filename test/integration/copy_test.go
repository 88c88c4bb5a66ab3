package integration

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// transports are those that root may use.
var transports = []string{"percpu", "gofuse"}

// TestCopy writes the corpus with dd and compares it, on the file and through
// a loop device.
func TestCopy(t *testing.T) {
	need(t, "dd", "cmp", "/dev/loop-control")
	for _, transport := range transports {
		for _, codec := range long([]string{"lz4"}, []string{"lz4", "lz4hc", "zstd", "minlz", "s2", "deflate", "brotli", "none"}) {
			t.Run(transport+"/"+codec, func(t *testing.T) {
				source := corpusFile(t)
				m := mount(t, "--size", "64M", "--transport", transport, "--algorithm", codec)
				if got := m.get("zramfs/daemon_stat"); !hasLine(got, "transport "+transport) {
					t.Errorf("not this transport:\n%s", got)
				}
				copyAndCompare(t, source, m.disk(0), "1M", "0")
				copyAndCompare(t, source, m.disk(0), "5000", "12289") // nothing falls on a page

				loop := m.attach()
				copyAndCompare(t, source, loop, "64K", "4096")
				m.detach()
				same(t, source, m.disk(0), "4096")
			})
		}
	}
}

// copyAndCompare empties the target's range, fills it, and compares.
func copyAndCompare(t *testing.T, source, target, bs, offset string) {
	t.Helper()
	info, err := os.Stat(source)
	if err != nil {
		t.Fatal(err)
	}
	run(t, "fallocate", "--punch-hole", "--offset", offset, "--length", fmt.Sprint(info.Size()), target)
	run(t, "dd", "if="+source, "of="+target, "bs="+bs, "seek="+offset, "oflag=seek_bytes", "conv=notrunc,fsync", "status=none")
	same(t, source, target, offset)
}

// same compares a file with a part of another, past the page cache.
func same(t *testing.T, source, target, offset string) {
	t.Helper()
	info, err := os.Stat(source)
	if err != nil {
		t.Fatal(err)
	}
	if strings.HasPrefix(target, "/dev/") {
		run(t, "blockdev", "--flushbufs", target)
	}
	run(t, "cmp", "--bytes", fmt.Sprint(info.Size()), "--ignore-initial", "0:"+offset, source, target)
}
