package keeper

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/zramfs/zramfs/internal/host"
)

// part is what one swap device is on: a segment, or the whole disk of a mount
// without segments.
type part struct {
	path string
	loop host.Loop // Path "" before it has one
	made bool      // its loop device was attached just now
	swap host.Swap // Path "" while it is not enabled
}

// partsOf lists the parts of a mount's disk, with the loop and swap devices
// that are on them.
func partsOf(point string) ([]part, int64, error) {
	disk := diskPath(point, 0)
	var parts []part
	for n := range maxSegments {
		path := disk + "." + strconv.Itoa(n)
		if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
			break
		} else if err != nil {
			return nil, 0, err
		}
		parts = append(parts, part{path: path})
	}
	if parts == nil {
		parts = []part{{path: disk}}
	}
	info, err := os.Stat(parts[0].path)
	if err != nil {
		return nil, 0, err
	}
	loops, err := host.LoopsBelow(point)
	if err != nil {
		return nil, 0, err
	}
	swaps, err := host.Swaps()
	if err != nil {
		return nil, 0, err
	}
	for _, l := range loops {
		if l.Backing == disk && parts[0].path != disk {
			return nil, 0, Errorf(CodeBusy, "%s is on the whole disk, of which the segments are parts: zramfs detach it first", l.Path)
		}
		for i := range parts {
			if p := &parts[i]; p.path == l.Backing && p.loop.Path == "" {
				p.loop = l
			}
		}
	}
	for i := range parts {
		for _, s := range swaps {
			if s.Path == parts[i].loop.Path {
				parts[i].swap = s
			}
		}
	}
	return parts, info.Size() / pageSize, nil
}

// onDisk says whether a loop device's file is a disk or a segment of it.
func onDisk(backing, disk string) bool {
	number, ok := strings.CutPrefix(backing, disk+".")
	if _, err := strconv.Atoi(number); ok && err == nil {
		return true
	}
	return backing == disk
}

// attachParts gives each part a loop device, or as many as there are to be
// had, at least one; it gives those that have one.
func attachParts(point string, parts []part, steps *undo) ([]part, []string, error) {
	if err := checkLoopPolicy(point, 0); err != nil {
		return nil, nil, err
	}
	var warnings []string
	for i := range parts {
		p := &parts[i]
		if p.loop.Path != "" {
			continue
		}
		loop, more, err := host.AttachLoop(p.path)
		if errors.Is(err, host.ErrNoLoop) && i > 0 {
			warnings = append(warnings, fmt.Sprintf("%d of %d segments can be used: there are no more loop devices", i, len(parts)))
			return parts[:i], warnings, nil
		}
		if err != nil {
			return nil, warnings, attachError(err)
		}
		p.loop, p.made = loop, true
		*steps = append(*steps, func() error { return host.DetachLoop(loop.Path) })
		for _, w := range more {
			if i == 0 { // the others would say the same
				warnings = append(warnings, w)
			}
		}
	}
	return parts, warnings, nil
}
