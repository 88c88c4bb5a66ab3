package blockdev

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"time"
)

// memoryAttributes: how much memory the disk may take, and giving it back.
func memoryAttributes() []Attribute {
	return []Attribute{
		{
			Dir: DirBlock, Name: "mem_limit", Mode: 0o200,
			Help: "most memory that pool and staged frames may take, in bytes or with K, M, G; 0 is no limit",
			Store: func(d *Device, value string) error {
				n, err := parseSize(trim(value))
				if err != nil {
					return fmt.Errorf("mem_limit: %w", err)
				}
				n = roundLimit(n)
				return d.change(func(s *settings) error { s.limit = n; return nil },
					func(k *disk) { k.setLimit(n) })
			},
		},
		{
			Dir: DirBlock, Name: "mem_used_max", Mode: 0o200,
			Help: "0 sets the high-water mark to what is used now",
			Store: func(d *Device, value string) error {
				if n, err := strconv.ParseUint(trim(value), 10, 64); err != nil || n != 0 {
					return fmt.Errorf("mem_used_max %q: need 0: %w", trim(value), ErrInvalid)
				}
				if k := d.hold(); k != nil {
					defer k.letGo()
					k.account.resetMax()
				}
				return nil
			},
		},
		{
			Dir: DirBlock, Name: "compact", Mode: 0o200,
			Help: "anything moves objects together and returns the pages that become empty",
			StoreSlow: func(ctx context.Context, d *Device, _ string) error {
				k, err := d.disked("compact")
				if err != nil {
					return err
				}
				defer k.letGo()
				freed, err := k.compact(ctx)
				if err != nil {
					return fmt.Errorf("compact: %d pages returned, then: %w", freed, err)
				}
				return nil
			},
		},
	}
}

// roundLimit makes a limit whole pages.
func roundLimit(n int64) int64 { return roundUp(min(n, math.MaxInt64-PageSize), PageSize) }

// compact moves objects together while I/O runs. The error is ctx's.
func (d *disk) compact(ctx context.Context) (freed int64, err error) {
	freed = d.compactUntil(ctx, func(int64) bool { return false })
	d.upkeep.poke() // pages may have become waste
	return freed, ctx.Err()
}

// compactUntil is compact that ends early once ctx does, or enough says so of the
// pages freed so far. While the gate is shut it rests: who wants the disk quiet
// keeps everybody waiting, and cannot wait for the end of a long compaction.
func (d *disk) compactUntil(ctx context.Context, enough func(freed int64) bool) (freed int64) {
	for again := true; again; {
		again = false
		d.quiet.RLock()
		freed += d.pool.CompactUntil(d, func(more int64) bool {
			again = again || d.gate.closed.Load()
			return again || ctx.Err() != nil || enough(freed+more)
		})
		d.quiet.RUnlock()
		for again && d.gate.closed.Load() {
			time.Sleep(firstPause)
			again = ctx.Err() == nil && d.ending.Err() == nil
		}
	}
	d.kept.compacted.Add(freed)
	return freed
}
