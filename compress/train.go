package compress

import (
	"fmt"

	"github.com/klauspost/compress/dict"
)

// TrainedSize is how large a dictionary Train makes: larger ones save little
// more, and each page costs more time.
const TrainedSize = 16 << 10

// minSamples is how many pages there should be to learn from.
const minSamples = 128

// Train makes a zstd dictionary for pages like these. It takes seconds of CPU
// time and some hundred MiB: nothing for a process that serves.
func Train(pages [][]byte) (_ []byte, err error) {
	if len(pages) < minSamples {
		return nil, fmt.Errorf("%w: %d pages to learn from: need %d or more that are not of one word", ErrInvalid, len(pages), minSamples)
	}
	defer func() { // the library does so where it finds nothing that comes twice
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: train a dictionary: %v", ErrInvalid, p)
		}
	}()
	d, err := dict.BuildZstdDict(pages, dict.Options{MaxDictSize: TrainedSize, HashBytes: 6, ZstdDictID: trainedDictID})
	if err != nil {
		return nil, fmt.Errorf("%w: train a dictionary: %w", ErrInvalid, err)
	}
	return d, nil
}

// trainedDictID is in the range that nobody registers.
const trainedDictID = 32768
