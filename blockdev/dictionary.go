package blockdev

import (
	"fmt"
	"strconv"
	"strings"
)

// dictionaryFile names the file that a dictionary came from, and what was in
// it: the bytes themselves are with the compression parameters, and once there
// is a disk in its header.
type dictionaryFile struct {
	path string
	sum  uint32 // CRC-32C of its bytes
}

// text is what parseDictionary reads: "" for none.
func (f dictionaryFile) text() string {
	if f.path == "" {
		return ""
	}
	return fmt.Sprintf("%08x %s", f.sum, f.path)
}

func parseDictionary(text string) (dictionaryFile, error) {
	sum, path, ok := strings.Cut(text, " ")
	n, err := strconv.ParseUint(sum, 16, 32)
	if !ok || err != nil || path == "" {
		return dictionaryFile{}, fmt.Errorf("dictionary %q: %w", text, ErrCorrupt)
	}
	return dictionaryFile{path, uint32(n)}, nil
}
