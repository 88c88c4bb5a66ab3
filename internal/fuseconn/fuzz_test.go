package fuseconn

import (
	"os"
	"testing"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// Whatever the head of a request for a disk says, it is served within its
// buffer or answered with an error, and the buffer is there for the next one.
func FuzzServe(f *testing.F) {
	null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { null.Close() })
	h := newStore("plain")
	rd := newTestReader(f, h, null.Fd())
	opcodes := []uint32{opRead, opWrite, opFallocate, opFsync}
	for op := range byte(4) {
		f.Add(op, 80, []byte{})
		f.Add(op, 64, []byte{0, 16, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0})
		f.Add(op, 80+4096, []byte{1, 2, 3, 4, 5, 6, 7, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255})
	}
	f.Fuzz(func(t *testing.T, op byte, n int, rest []byte) {
		if n < 0 || n > rwInSize+MaxWrite {
			return
		}
		q := rd.current
		head := q.head[requestAt:]
		clear(head)
		copy(head[unsafe.Sizeof(fuse.InHeader{}):], rest)
		*in[fuse.InHeader](q.head) = fuse.InHeader{
			Length: uint32(n), Opcode: opcodes[op%4], Unique: 2, NodeId: diskNode,
		}
		rd.serveOne(n)
		if rd.current != q || len(rd.spare) != 2 {
			t.Fatalf("the buffer is gone: %d spares", len(rd.spare))
		}
		if n >= inHeaderSize && q.index.state.Load() != indexAnswered {
			t.Fatalf("a request of %d bytes was not answered", n)
		}
	})
}
