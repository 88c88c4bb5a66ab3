package compress

import (
	"bytes"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/pierrec/lz4/v4"
)

// legacyMagic begins the lz4 tool's older format: after it come blocks as they
// are, each with its length in front.
const legacyMagic = 0x184C2102

func lz4Tool(t *testing.T) string {
	tool, err := exec.LookPath("lz4")
	if err != nil {
		t.Skip("needs the lz4 tool (Debian: lz4)")
	}
	return tool
}

// The C library decodes what we write.
func TestLZ4ToolReads(t *testing.T) {
	tool := lz4Tool(t)
	file := binary.LittleEndian.AppendUint32(nil, legacyMagic)
	var want []byte
	for _, level := range []int{1, 3, 100} {
		st := one(t, Params{Codec: "lz4", Level: level})
		for _, page := range sample(t, 53) {
			c, err := compressPage(st, page)
			if err != nil {
				continue
			}
			file = binary.LittleEndian.AppendUint32(file, uint32(len(c)))
			file = append(file, c...)
			want = append(want, page...)
		}
	}
	cmd := exec.Command(tool, "-dc")
	cmd.Stdin = bytes.NewReader(file)
	got, err := cmd.Output()
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("lz4 -d gives %d bytes of %d, %v", len(got), len(want), err)
	}
}

// And we decode what it writes.
func TestLZ4ToolWrites(t *testing.T) {
	tool := lz4Tool(t)
	st := one(t, Params{Codec: "lz4"})
	name := filepath.Join(t.TempDir(), "page")
	out := make([]byte, PageSize)
	for _, page := range sample(t, 997) {
		if err := os.WriteFile(name, page, 0o600); err != nil {
			t.Fatal(err)
		}
		for _, level := range []string{"-1", "-12"} {
			file, err := exec.Command(tool, "-lc", level, name).Output()
			if err != nil || len(file) < 8 || binary.LittleEndian.Uint32(file) != legacyMagic {
				t.Fatalf("lz4 -l %s: %d bytes, %v", level, len(file), err)
			}
			if err := st.Decompress(0, out, file[8:]); err != nil || !bytes.Equal(out, page) {
				t.Fatalf("a page from lz4 -l %s: %v", level, err)
			}
		}
	}
}

// Any page, both ways between this encoder and the library.
func FuzzLZ4Library(f *testing.F) {
	var e lz4Encoder
	var fast lz4.Compressor
	for _, page := range sample(f, 1024) {
		f.Add(page, 1)
		f.Add(page, 65)
	}
	f.Fuzz(func(t *testing.T, data []byte, acceleration int) {
		var page, back [PageSize]byte
		for n := 0; len(data) != 0 && n < PageSize; { // short inputs repeat
			n += copy(page[n:], data)
		}
		var dst [outSize]byte
		n := e.encode(&dst, &page, 1+int(uint16(acceleration)))
		if n != 0 {
			if n >= PageSize {
				t.Fatalf("%d bytes", n)
			}
			if m, err := lz4.UncompressBlock(dst[:n], back[:]); err != nil || m != PageSize || back != page {
				t.Fatalf("the library reads %d bytes, %v", m, err)
			}
		}
		m, err := fast.CompressBlock(page[:], dst[:])
		if err != nil || m == 0 {
			t.Fatalf("the library writes %d bytes, %v", m, err)
		}
		if !lz4Block(&back, dst[:m]) || back != page {
			t.Fatal("what the library wrote is read otherwise")
		}
	})
}
