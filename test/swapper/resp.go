package main

import (
	"bufio"
	"fmt"
	"io"

	"github.com/zramfs/zramfs/internal/swapload"
)

// respValue is how much of a page one key holds: with the allocator's and
// Redis's own headers that is about a page again.
const respValue = 4000

// writeCommands prints a SET for each page, with keys as redis-benchmark -r
// asks for them: key:000000000000 and on.
func writeCommands(o *options, w io.Writer) error {
	base, _, err := loadBase(o)
	if err != nil {
		return err
	}
	out := bufio.NewWriterSize(w, 1<<20)
	page := make([]byte, swapload.PageSize)
	for i := range uint64(o.size / swapload.PageSize) {
		base.Fill(page, i, 0)
		key := fmt.Sprintf("key:%012d", i)
		fmt.Fprintf(out, "*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n", len(key), key, respValue, page[:respValue])
	}
	return out.Flush()
}
