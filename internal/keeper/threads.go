package keeper

import (
	"runtime"
	"sync"
)

// workerThreads is how many threads may be in system calls at once besides the
// readers: control, the socket to the keeper, upkeep of the devices, compressors.
const workerThreads = 12

// backingThreads is how many more may be where there is a backing device, which
// may stall: those that read, one that writes, one that discards.
const backingThreads = 10

// spareThreads makes threads for the runtime to find. It starts one when a
// goroutine is ready and every thread is in a system call, and whoever asks
// for it waits for its memory: that may be a reader, while this device is the
// machine's only way to free some.
func spareThreads(n int) {
	var started, ended sync.WaitGroup
	started.Add(n)
	release := make(chan struct{})
	for range n {
		ended.Go(func() {
			runtime.LockOSThread() // a thread each, all at once
			started.Done()
			<-release
			runtime.UnlockOSThread() // or the thread would end with its goroutine
		})
	}
	started.Wait()
	close(release)
	ended.Wait()
}
