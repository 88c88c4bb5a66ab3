package keeper

import (
	"fmt"
	"sync/atomic"
	"unsafe"

	"github.com/zramfs/zramfs/internal/shm"
)

// The header region of a mount, one page:
//
//	0   magic and format, 8 bytes, written by the first worker
//	8   length of the saved INIT request, 0 if there is none; stored last
//	16  the saved INIT request
const (
	headerSize  = shm.PageSize
	headerMagic = "zramfs\x00\x01"
	initLenAt   = 8
	initAt      = 16
)

// header is the mount's header, in shared memory.
type header struct{ page []byte }

// openHeader adopts the header that the keeper made. A fresh one is void.
func openHeader(r *shm.Region) (header, error) {
	if r.Size() != headerSize {
		return header{}, fmt.Errorf("open header: %d bytes, expected %d", r.Size(), headerSize)
	}
	if err := r.Populate(0, headerSize); err != nil {
		return header{}, fmt.Errorf("open header: %w", err)
	}
	h := header{r.Bytes(0, headerSize)}
	switch string(h.page[:len(headerMagic)]) {
	case headerMagic:
	case "\x00\x00\x00\x00\x00\x00\x00\x00":
		copy(h.page, headerMagic)
	default:
		return header{}, fmt.Errorf("open header: format %q is not this program's", h.page[:len(headerMagic)])
	}
	if n := h.length().Load(); n > headerSize-initAt {
		return header{}, fmt.Errorf("open header: INIT of %d bytes", n)
	}
	return h, nil
}

func (h header) length() *atomic.Uint64 {
	return (*atomic.Uint64)(unsafe.Pointer(&h.page[initLenAt]))
}

// saveInit keeps the INIT request for later workers.
func (h header) saveInit(request []byte) error {
	if len(request) > headerSize-initAt {
		return fmt.Errorf("save INIT of %d bytes: too long", len(request))
	}
	copy(h.page[initAt:], request)
	h.length().Store(uint64(len(request)))
	return nil
}

// savedInit is the INIT request that an earlier worker saved, nil if none.
func (h header) savedInit() []byte {
	n := h.length().Load()
	if n == 0 {
		return nil
	}
	return append([]byte(nil), h.page[initAt:initAt+n]...)
}
