package compress

import (
	"fmt"
	"strings"

	"github.com/zramfs/zramfs/internal/nearest"
)

// A codec is the private state of one stream for one Params. It is used by one
// goroutine at a time, under the stream's lock.
type codec interface {
	// compress writes the compressed page to dst, which has outSize bytes, and
	// gives the length, or 0 when the page does not compress to less than
	// PageSize bytes. It keeps neither slice.
	compress(dst []byte, page *[PageSize]byte) int
	// decompress fills dst from src and says whether src was exactly one page.
	// Whatever src holds, it does not panic and writes nowhere but to dst.
	decompress(dst *[PageSize]byte, src []byte) bool
}

// outSize is the length of a stream's output buffer: what the most wasteful
// codec asks for, rounded up. Each codec's bound is checked by a test.
const outSize = 2 * PageSize

// A family is a codec's name, its rules, and how a stream's state is made.
type family struct {
	name     string
	min, max int // levels, 0 excluded; both 0: takes no level
	standard int // the level that level 0 means
	dict     bool
	winbits  bool
	make     func(Params) (codec, error)
	read     func(Params) (codec, error) // one that only decompresses, and is smaller; nil: there is none
}

// families gives the codecs in the order in which comp_algorithm shows them.
func families() []family {
	return []family{
		{name: "lz4", min: 1, max: 65537, standard: 1, dict: true, make: newLZ4},
		{name: "lz4hc", min: 1, max: 16, standard: 9, make: newLZ4HC, read: readLZ4HC},
		{name: "zstd", min: -131072, max: 22, standard: 3, dict: true, make: newZstd, read: readZstd},
		{name: "minlz", min: 1, max: 2, standard: 1, make: newMinLZ},
		{name: "s2", min: 1, max: 2, standard: 1, make: newS2},
		{name: "deflate", min: 1, max: 9, standard: 6, winbits: true, make: newDeflate, read: readDeflate},
		{name: "brotli", min: 1, max: 4, standard: 1, make: newBrotli, read: readBrotli},
		{name: "none", make: newNone},
	}
}

// find gives the family of that name. The error wraps ErrUnknown or ErrTooLong
// and says what to use instead.
func find(name string) (family, error) {
	if len(name) >= 128 {
		return family{}, fmt.Errorf("%w: %d characters, at most 127", ErrTooLong, len(name))
	}
	all := families()
	for _, f := range all {
		if f.name == name {
			return f, nil
		}
	}
	switch name {
	case "lzo", "lzo-rle":
		return family{}, fmt.Errorf("%w: %s is not offered here; lz4 is as fast, and lz4hc or zstd store less",
			ErrUnknown, name)
	case "842":
		return family{}, fmt.Errorf("%w: 842 is made for a hardware unit of POWER and is not offered here; use lz4",
			ErrUnknown)
	case "":
		return family{}, fmt.Errorf("%w: no name given; one of %s", ErrUnknown, strings.Join(Codecs(), ", "))
	}
	return family{}, fmt.Errorf("%w %q; the nearest is %s, and there are %s",
		ErrUnknown, name, nearest.Of(name, Codecs(), 1)[0], strings.Join(Codecs(), ", "))
}

// Codecs gives the names of all codecs, in the order of comp_algorithm.
func Codecs() []string {
	all := families()
	names := make([]string, len(all))
	for i, f := range all {
		names[i] = f.name
	}
	return names
}

// List is the text of comp_algorithm: all names, the current one in brackets,
// without a newline. A name that is none of ours is not shown.
func List(current string) string {
	names := Codecs()
	for i, name := range names {
		if name == current {
			names[i] = "[" + name + "]"
		}
	}
	return strings.Join(names, " ")
}
