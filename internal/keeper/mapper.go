package keeper

import (
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zramfs/zramfs/internal/shm"
)

const (
	mapperPause = time.Second
	mapperShare = 100 // of one CPU, one part at most

	tableReach = 2 << 20  // bytes that one page of a page table maps
	faultReach = 64 << 10 // bytes around a read fault that the kernel maps with it, where pages exist
)

// mapper has the kernel map the regions into a worker that waits, so that this
// need not be done while the machine waits for it: page tables, and the pages
// themselves. It reads a page that exists in each 64 KiB, and never a hole, which
// would make a page of it.
type mapper struct {
	work   chan func(map[*shm.Region]*os.File) // nil: end
	done   chan struct{}
	files  map[*shm.Region]*os.File // of the goroutine until it is done
	hurry  atomic.Bool              // somebody waits for work to be taken
	regard int                      // keeps the reads
}

func startMapper() *mapper {
	m := &mapper{
		work:  make(chan func(map[*shm.Region]*os.File)),
		done:  make(chan struct{}),
		files: make(map[*shm.Region]*os.File),
	}
	go m.run()
	return m
}

func (m *mapper) run() {
	defer close(m.done)
	clock := time.NewTimer(mapperPause)
	defer clock.Stop()
	for {
		select {
		case f := <-m.work:
			if f == nil {
				return
			}
			f(m.files)
		case <-clock.C:
		}
		began := time.Now()
		m.touchAll(faultReach)
		clock.Reset(max(mapperPause, mapperShare*time.Since(began)))
	}
}

func (m *mapper) touchAll(reach int64) {
	for r, f := range m.files {
		m.touch(r, f, reach)
	}
}

// do runs f on the mapper's goroutine; nil ends it.
func (m *mapper) do(f func(map[*shm.Region]*os.File)) {
	m.hurry.Store(true)
	m.work <- f
	m.hurry.Store(false)
}

// add takes up a region; until drop it must stay mapped.
func (m *mapper) add(r *shm.Region) {
	// A file of its own: looking for data moves the position.
	f, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", r.File().Fd()))
	if err != nil {
		return // then it is slower
	}
	m.do(func(files map[*shm.Region]*os.File) { files[r] = f })
}

// drop forgets a region; nil is none.
func (m *mapper) drop(r *shm.Region) {
	m.do(func(files map[*shm.Region]*os.File) {
		if f := files[r]; f != nil {
			f.Close()
			delete(files, r)
		}
	})
}

// settle returns when everything has been mapped once.
func (m *mapper) settle() {
	done := make(chan struct{})
	m.work <- func(map[*shm.Region]*os.File) {
		m.touchAll(faultReach)
		close(done)
	}
	<-done
}

// stop ends it.
func (m *mapper) stop() {
	m.do(nil)
	<-m.done
}

// finish makes on the caller's thread the page tables of what has come since the
// last look, when the worker before this one is dead. Only after stop.
func (m *mapper) finish() {
	m.touchAll(tableReach)
	for _, f := range m.files {
		f.Close()
	}
	clear(m.files)
}

// touch reads a page in each reach that has one.
func (m *mapper) touch(r *shm.Region, f *os.File, reach int64) {
	first := int64(uintptr(r.Base()) % tableReach) // where the region begins in its first reach
	for at := int64(0); at < r.Size() && !m.hurry.Load(); {
		start, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
		if err != nil {
			return
		}
		// The page may be punched just now. Then a page is made of the hole,
		// which the next worker finds when it rebuilds.
		m.regard += int(r.Bytes(start, 1)[0])
		at = ((first+start)/reach+1)*reach - first
	}
}
