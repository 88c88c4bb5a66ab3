package fuseconn

import (
	"errors"
	"fmt"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// ErrNoRing: the kernel does not offer FUSE over io_uring for this mount.
var ErrNoRing = errors.New("kernel offers no FUSE over io_uring")

// Ring is the worker's half of transport ring: a thread for each lane of a
// Pump that serves what lies in shared memory. INIT, FORGET and what came
// before the rings were there arrive on /dev/fuse, where a PerCPU with one
// reader serves them.
//
// A worker may die at any point. The next one looks at every entry: what is
// answered is committed, what was begun is done again as if the kernel had sent
// it again (Request.Resent), the rest is new.
type Ring struct {
	*PerCPU
	lanes []*lane // immutable
}

var _ Conn = (*Ring)(nil)

// NewRing builds on NewPerCPU, with the same rules.
func NewRing(cfg PerCPUConfig) (*Ring, error) {
	if len(cfg.Layout.Ring.CPUs) == 0 {
		return nil, fmt.Errorf("fuseconn: a ring without lanes: %w", errors.ErrUnsupported)
	}
	p, err := NewPerCPU(cfg)
	if err != nil {
		return nil, err
	}
	n := len(cfg.Clones)
	if err := populateRing(cfg.Memory, cfg.Layout, n); err != nil {
		return nil, err
	}
	r := &Ring{PerCPU: p}
	for i, cpu := range cfg.Layout.Ring.CPUs {
		r.lanes = append(r.lanes, newLane(viewLane(cfg.Memory, cfg.Layout, n, i), i, cpu, cfg.Layout.Ring.Depth, cfg.Handler, p.control))
	}
	for _, ln := range r.lanes {
		for _, other := range r.lanes {
			if other != ln {
				ln.others = append(ln.others, other)
			}
		}
	}
	return r, nil
}

// Transport is the transport's name.
func (r *Ring) Transport() string { return "ring" }

// Init is PerCPU's. Without an offer of the kernel there is no ring.
func (r *Ring) Init() error {
	if err := r.PerCPU.Init(); err != nil {
		return err
	}
	if r.negotiated.Flags&fuse.CAP_OVER_IO_URING == 0 {
		return fmt.Errorf("fuseconn: INIT: %w", ErrNoRing)
	}
	return nil
}

// Serve runs lanes, reader and control thread until the kernel has ended the
// connection and every request is answered.
func (r *Ring) Serve() error {
	start := func() {
		for _, ln := range r.lanes {
			go ln.loop(r.notPinned)
		}
	}
	stop := func() {
		for _, ln := range r.lanes {
			ln.end()
		}
	}
	drain := func() {
		for _, ln := range r.lanes {
			for ln.parked.Load() > 0 {
				backoff(10)
			}
		}
	}
	return r.serve(start, stop, drain)
}

// Stats reads the counters.
func (r *Ring) Stats() Stats {
	s := r.PerCPU.Stats()
	for _, ln := range r.lanes {
		c := ln.count.stats(ln.cpu)
		s.Readers = append(s.Readers, c)
		s.Resent += c.Resent
		s.Poisoned += c.Poisoned
	}
	return s
}
