package keeper

import (
	"fmt"
	"sync/atomic"
	"unsafe"

	"github.com/zramfs/zramfs/blockdev"
	"github.com/zramfs/zramfs/internal/fusefs"
	"github.com/zramfs/zramfs/internal/invariants"
	"github.com/zramfs/zramfs/internal/shm"
)

// format numbers everything that lies in shared memory, the regions of devices
// and the messages between keeper and worker included: processes of another
// format do not work together.
const format = 4

// The header region of a mount: spans of whole pages, in this order.
const (
	initBytes    = shm.PageSize     // magic, and the saved INIT request
	crashBytes   = 5 * shm.PageSize // the crash record
	treeBytes    = (fusefs.LedgerBytes + shm.PageSize - 1) &^ (shm.PageSize - 1)
	devicesBytes = (blockdev.LedgerBytes + shm.PageSize - 1) &^ (shm.PageSize - 1)
	roomBytes    = shm.PageSize // the figures that the worker publishes for the keeper's threads

	crashAt    = initBytes
	treeAt     = crashAt + crashBytes
	devicesAt  = treeAt + treeBytes
	roomAt     = devicesAt + devicesBytes
	headerSize = roomAt + roomBytes
)

// The first page:
//
//	0   magic and format, 8 bytes, written by the keeper that made it
//	8   length of the saved INIT request, 0 if there is none; stored last
//	16  the saved INIT request
const (
	headerMagic = "zramfs\x00"
	formatAt    = len(headerMagic)
	initLenAt   = 8
	initAt      = 16
)

// header is the mount's header, in shared memory. Keeper and workers map it.
type header struct{ region *shm.Region }

// makeHeader writes a header into a fresh region.
func makeHeader(r *shm.Region) (header, error) {
	if err := populateHeader(r); err != nil {
		return header{}, fmt.Errorf("make header: %w", err)
	}
	invariants.Copy("header.magic", r.Bytes(0, initBytes), []byte(headerMagic))
	invariants.CrashPoint("header.format")
	r.Bytes(0, initBytes)[formatAt] = byte(programFormat())
	invariants.CrashPoint("header.made")
	return openHeader(r)
}

// populateHeader makes the pages of a header that are sure to be used: all but
// the records of devices that few mounts have.
func populateHeader(r *shm.Region) error {
	const first = devicesAt + (blockdev.LedgerReady+shm.PageSize-1)&^(shm.PageSize-1)
	if err := r.Populate(0, first); err != nil {
		return err
	}
	return r.Populate(roomAt, roomBytes)
}

// openHeader looks at a header that somebody made. It is the same in each
// process that maps it.
func openHeader(r *shm.Region) (header, error) {
	if r.Size() < initBytes {
		return header{}, fmt.Errorf("open header: %d bytes", r.Size())
	}
	page := r.Bytes(0, initBytes)
	if string(page[:formatAt]) != headerMagic {
		return header{}, fmt.Errorf("open header: it begins with %q: not a header of zramfs", page[:formatAt])
	}
	if f := int(page[formatAt]); f != programFormat() {
		return header{}, fmt.Errorf("open header: the memory is of format %d, and this program reads format %d", f, programFormat())
	}
	if r.Size() != headerSize {
		return header{}, fmt.Errorf("open header: %d bytes, expected %d", r.Size(), headerSize)
	}
	if err := populateHeader(r); err != nil {
		return header{}, fmt.Errorf("open header: %w", err)
	}
	h := header{r}
	if n := h.length().Load(); n > initBytes-initAt {
		return header{}, fmt.Errorf("open header: INIT of %d bytes", n)
	}
	return h, h.crash().check()
}

func (h header) length() *atomic.Uint64 {
	return (*atomic.Uint64)(unsafe.Pointer(&h.region.Bytes(0, initBytes)[initLenAt]))
}

// crash is the record of deaths.
func (h header) crash() *crashRecord {
	return (*crashRecord)(unsafe.Pointer(&h.region.Bytes(crashAt, crashBytes)[0]))
}

// tree is for fusefs: open handles, control requests with effects.
func (h header) tree() []byte { return h.region.Bytes(treeAt, fusefs.LedgerBytes) }

// devices is for blockdev: which devices there are, and their settings.
func (h header) devices() []byte { return h.region.Bytes(devicesAt, blockdev.LedgerBytes) }

// room is for the worker to write and the keeper's threads to read.
func (h header) room() []byte { return h.region.Bytes(roomAt, roomBytes) }

// saveInit keeps the INIT request for later workers.
func (h header) saveInit(request []byte) error {
	if len(request) > initBytes-initAt {
		return fmt.Errorf("save INIT of %d bytes: too long", len(request))
	}
	invariants.Copy("header.init", h.region.Bytes(initAt, initBytes-initAt), request)
	invariants.CrashPoint("header.init.length")
	h.length().Store(uint64(len(request)))
	invariants.CrashPoint("header.init.saved")
	return nil
}

// savedInit is the INIT request that an earlier worker saved, nil if none.
func (h header) savedInit() []byte {
	n := h.length().Load()
	if n == 0 {
		return nil
	}
	return append([]byte(nil), h.region.Bytes(initAt, int64(n))...)
}
