package keeper

import (
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"time"
)

const probePause = time.Millisecond

// Upgrade replaces the program of a mount by the one in a file, or, without a
// path, by the one that runs. progress is told how far it is.
func Upgrade(path, binary string, progress func(string)) (*Upgraded, error) {
	m, err := Find(path)
	if err != nil {
		return nil, err
	}
	if binary == "" {
		binary = "/proc/self/exe"
	}
	program, err := openProgram(binary)
	if err != nil {
		return nil, err
	}
	defer program.Close()
	// The upgrade itself is silent for long; whether there is a keeper to ask is
	// known sooner.
	if _, err := askProcesses(m.Point); err != nil {
		return nil, err
	}
	p := startProbe(m.Point)
	r, err := ask(m.Point, request{Op: opUpgrade, most: trialSilence}, program, progress)
	longest := p.end()
	if err != nil {
		return nil, err
	}
	u := &Upgraded{}
	if err := r.into(u); err != nil {
		return nil, err
	}
	u.Longest = longest.Microseconds()
	return u, nil
}

// openProgram copies a program to memory: what runs must not change, nor need a
// disk.
func openProgram(path string) (*os.File, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, &Error{CodeUsage, "program " + path, err}
	}
	if !info.Mode().IsRegular() {
		return nil, Errorf(CodeUsage, "%s is not a file: expected a zramfs program", path)
	}
	if info.Mode()&0o111 == 0 {
		return nil, Errorf(CodeUsage, "%s cannot be executed: expected a zramfs program; chmod +x it if it is one", path)
	}
	return sealedCopy(path)
}

// probe asks a mount for something small again and again, and remembers how
// long it waited at most. Its requests are also what a new worker answers first
// where nobody else uses the disk.
type probe struct {
	stop    atomic.Bool
	longest atomic.Int64
	done    chan struct{}
}

func startProbe(point string) *probe {
	p := &probe{done: make(chan struct{})}
	go func() {
		defer close(p.done)
		for !p.stop.Load() {
			ids, err := deviceIDs(point)
			if err != nil || len(ids) == 0 {
				return // nothing to ask
			}
			path := filepath.Join(point, blockDir, "zram"+strconv.Itoa(ids[0]), "initstate")
			start := time.Now()
			if _, err := os.ReadFile(path); err != nil {
				return
			}
			p.longest.Store(max(p.longest.Load(), int64(time.Since(start))))
			time.Sleep(probePause)
		}
	}()
	return p
}

func (p *probe) end() time.Duration {
	p.stop.Store(true)
	<-p.done
	return time.Duration(p.longest.Load())
}
