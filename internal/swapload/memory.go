package swapload

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// generations maps n zero generations and locks them: what is compared with
// must not go through the swap that is tested.
func generations(n int) (gens []uint32, locked bool, err error) {
	mem, err := mapMemory(n * 4)
	if err != nil {
		return nil, false, err
	}
	return unsafe.Slice((*uint32)(unsafe.Pointer(unsafe.SliceData(mem))), n), unix.Mlock(mem) == nil, nil
}

func unmapGenerations(gens []uint32) {
	_ = unix.Munmap(unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(gens))), len(gens)*4))
}
