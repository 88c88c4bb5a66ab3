package swapload

import (
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// deviceIO is the length of one transfer to a device, in bytes.
const deviceIO = 1 << 20

// FillDevice writes generation 0 of the pages 0 to pages-1 to a file or block
// device, past the page cache where it allows that.
func FillDevice(path string, base *Base, pages int) error {
	return eachChunk(path, os.O_WRONLY, pages, func(f *os.File, buf []byte, first int) error {
		for i := 0; i < len(buf)/PageSize; i++ {
			base.Fill(buf[i*PageSize:], uint64(first+i), 0)
		}
		_, err := f.WriteAt(buf, int64(first)*PageSize)
		return err
	})
}

// VerifyDevice reads back what FillDevice wrote and counts wrong pages.
func VerifyDevice(path string, base *Base, pages int) (wrong int, err error) {
	err = eachChunk(path, os.O_RDONLY, pages, func(f *os.File, buf []byte, first int) error {
		if _, err := f.ReadAt(buf, int64(first)*PageSize); err != nil && err != io.EOF {
			return err
		}
		for i := 0; i < len(buf)/PageSize; i++ {
			if base.Check(buf[i*PageSize:(i+1)*PageSize], uint64(first+i), 0) != Whole {
				wrong++
			}
		}
		return nil
	})
	return wrong, err
}

// eachChunk calls do for each chunk of pages with an aligned buffer of its length.
func eachChunk(path string, mode, pages int, do func(f *os.File, buf []byte, first int) error) error {
	f, err := os.OpenFile(path, mode|unix.O_DIRECT, 0)
	if err != nil {
		if f, err = os.OpenFile(path, mode, 0); err != nil {
			return fmt.Errorf("swapload: %w", err)
		}
	}
	defer f.Close()
	buf, err := mapMemory(deviceIO)
	if err != nil {
		return err
	}
	defer unix.Munmap(buf)
	for first := 0; first < pages; first += deviceIO / PageSize {
		n := min(deviceIO, (pages-first)*PageSize)
		if err := do(f, buf[:n], first); err != nil {
			return fmt.Errorf("swapload: page %d and after: %w", first, err)
		}
	}
	if mode == os.O_WRONLY {
		if err := f.Sync(); err != nil {
			return fmt.Errorf("swapload: flush: %w", err)
		}
	}
	return nil
}
