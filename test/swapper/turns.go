package main

import (
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// turns keeps processes in step: all begin a phase when the last has ended the
// one before. Without it one that is ahead would have the memory of those that ended.
type turns struct {
	arrive  *os.File   // each process says here that it is ready
	arrived *os.File   // other end
	wait    []*os.File // where each waits for the others
	begin   []*os.File // other ends
}

// Numbers of the descriptors in the processes, after the standard ones.
const arriveFD, waitFD = 3, 4

func newTurns(n int) (*turns, error) {
	t := &turns{}
	var err error
	if t.arrived, t.arrive, err = os.Pipe(); err != nil {
		return nil, fmt.Errorf("turns: %w", err)
	}
	for range n {
		r, w, err := os.Pipe()
		if err != nil {
			return nil, fmt.Errorf("turns: %w", err)
		}
		t.wait, t.begin = append(t.wait, r), append(t.begin, w)
	}
	return t, nil
}

// run starts each phase when all are ready, until none is left to say so.
func (t *turns) run() {
	t.arrive.Close()
	for _, f := range t.wait {
		f.Close()
	}
	go func() {
		all := make([]byte, len(t.begin))
		for {
			if _, err := io.ReadFull(t.arrived, all); err != nil {
				return
			}
			for _, f := range t.begin {
				_, _ = f.Write(all[:1]) // one that has ended needs none
			}
		}
	}()
}

// takeTurn is the process's side. An error means that the parent is gone, and
// with it this process in a moment.
func takeTurn() {
	b := []byte{0}
	if _, err := unix.Write(arriveFD, b); err != nil {
		return
	}
	for {
		if _, err := unix.Read(waitFD, b); err != unix.EINTR {
			return
		}
	}
}
