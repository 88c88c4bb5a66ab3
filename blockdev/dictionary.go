package blockdev

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"

	"github.com/zramfs/zramfs/internal/invariants"
)

// Dictionaries lie in the header, behind the counters, one after the other. What
// a row names stays there as long as the disk, since pages need it.
const (
	dictionariesAt = lanesAt + maxLanes*256

	// MaxDictionary is the largest dictionary that a disk takes, in bytes.
	MaxDictionary = 256 << 10
)

// dictionarySpan is where a dictionary is in the header; n 0: there is none.
type dictionarySpan struct{ at, n, sum uint32 }

func (s dictionarySpan) inside() bool {
	return s.n == 0 || s.at >= dictionariesAt && s.n <= MaxDictionary && uint64(s.at)+uint64(s.n) <= headerBytes
}

// keepDictionary puts a dictionary into the header, if it is not there.
func (d *disk) keepDictionary(b []byte) (dictionarySpan, error) {
	if len(b) == 0 {
		return dictionarySpan{}, nil
	}
	s := dictionarySpan{dictionariesAt, uint32(len(b)), paramsSum(b)}
	for i := range d.rowCount.Load() {
		switch r := d.rows[i].dict; {
		case r.n == 0:
		case r.n == s.n && r.sum == s.sum && bytes.Equal(d.region.Bytes(int64(r.at), int64(r.n)), b):
			return r, nil
		default:
			s.at = max(s.at, r.at+r.n)
		}
	}
	if !s.inside() {
		return s, fmt.Errorf("a dictionary of %d bytes: the device has room for %d more, and takes none of more than %d; reset forgets those it has: %w",
			len(b), max(0, headerBytes-int64(s.at)), MaxDictionary, ErrNoSpace)
	}
	first := int64(s.at) / PageSize * PageSize
	if err := d.region.Populate(first, roundUp(int64(s.at+s.n), PageSize)-first); err != nil {
		return s, fmt.Errorf("room for a dictionary: %w", err)
	}
	invariants.CrashPoint("life.dictionary")
	invariants.Copy("life.dictionary.half", d.region.Bytes(int64(s.at), int64(s.n)), b)
	invariants.CrashPoint("life.dictionary.end")
	return s, nil
}

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

// readDictionary reads the dictionary of an algorithm from where its owner says.
func (d *Device) readDictionary(path string) ([]byte, dictionaryFile, error) {
	if d.set.cfg.ReadDictionary == nil {
		return nil, dictionaryFile{}, fmt.Errorf("dictionary %s: files cannot be read here: %w", path, ErrInvalid)
	}
	b, err := d.set.cfg.ReadDictionary(path, MaxDictionary)
	switch {
	case err != nil:
		return nil, dictionaryFile{}, fmt.Errorf("dictionary: %w: %w", ErrInvalid, err)
	case len(b) == 0 || len(b) > MaxDictionary:
		return nil, dictionaryFile{}, fmt.Errorf("dictionary %s: %d bytes, need 1 to %d: %w", path, len(b), MaxDictionary, ErrInvalid)
	}
	return b, dictionaryFile{path, paramsSum(b)}, nil
}

// readDictionaries reads the dictionaries of s that a worker before this one has
// been given, and this one has not.
func (d *Device) readDictionaries(s *settings) error {
	for prio, was := range s.dicts {
		p := s.algorithm(prio)
		if was.path == "" || p.Dict != nil {
			continue
		}
		b, f, err := d.readDictionary(was.path)
		if err != nil {
			return err
		}
		if f != was {
			return fmt.Errorf("dictionary %s is not what it was when it was set; set it again: %w", f.path, ErrInvalid)
		}
		p.Dict = b
	}
	return nil
}

// secondaries lists the algorithms that settings have beside the primary.
func (s *settings) secondaries() (list []wanted) {
	for i, p := range s.recomp {
		if p.Codec != "" {
			list = append(list, wanted{p, s.dicts[i+1], uint8(i + 1)})
		}
	}
	return list
}
