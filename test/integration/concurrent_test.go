package integration

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

const sectorSize = 512

// roleSectors is a process that writes a part of each page.
const roleSectors = "sectors"

// TestSectors lets eight processes write a part each of the same pages, over
// and over. No part may be lost, whatever the scheduler makes of it.
func TestSectors(t *testing.T) {
	need(t)
	rounds := long(300, 20000)
	for _, c := range []struct {
		name  string
		flag  int
		flags []string
	}{
		{"direct", unix.O_DIRECT, []string{"--write-behind", "16"}},
		{"sync", unix.O_SYNC, nil},
		{"gofuse", unix.O_DIRECT, []string{"--transport", "gofuse", "--write-behind", "16", "--stable", "wait"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := mount(t, append(c.flags, "--size", "1M")...)
			disk := open(t, m.disk(0), os.O_RDWR)
			// What lies around the pages stays what it is.
			around := corpus(t)[:2*pageSize]
			writeAt(t, disk, 0, around[:pageSize])
			writeAt(t, disk, 3*pageSize, around[pageSize:])
			var writers []*exec.Cmd
			for i := range pageSize / sectorSize {
				w := actor(t, roleSectors, m.disk(0), strconv.Itoa(i), strconv.Itoa(rounds), strconv.Itoa(c.flag))
				if err := w.Start(); err != nil {
					t.Fatal(err)
				}
				writers = append(writers, w)
			}
			for i, w := range writers {
				if err := w.Wait(); err != nil {
					t.Errorf("writer %d: %v", i, err)
				}
			}
			for page := range 2 {
				got := readAt(t, disk, int64(1+page)*pageSize, pageSize)
				for i := range pageSize / sectorSize {
					want := make([]byte, sectorSize)
					sector(want, i, rounds-1)
					if !bytes.Equal(got[i*sectorSize:(i+1)*sectorSize], want) {
						t.Errorf("page %d: part %d is not what its writer wrote last", page, i)
					}
				}
			}
			if !bytes.Equal(readAt(t, disk, 0, pageSize), around[:pageSize]) ||
				!bytes.Equal(readAt(t, disk, 3*pageSize, pageSize), around[pageSize:]) {
				t.Error("a neighbouring page was damaged")
			}
		})
	}
}

// sector fills b with what a writer writes in a round.
func sector(b []byte, writer, round int) {
	for i := 0; i+8 <= len(b); i += 8 {
		binary.LittleEndian.PutUint64(b[i:], uint64(writer)<<56|uint64(round)<<16|uint64(i))
	}
}

// writeSectors writes part args[1] of pages 1 and 2 of the disk args[0],
// args[2] times, opened with flags args[3], and reads its own part back.
func writeSectors(args []string) error {
	var n [3]int
	for i := range n {
		var err error
		if n[i], err = strconv.Atoi(args[1+i]); err != nil {
			return err
		}
	}
	f, err := os.OpenFile(args[0], os.O_RDWR|n[2], 0)
	if err != nil {
		return err
	}
	defer f.Close()
	mem, err := unix.Mmap(-1, 0, pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return err
	}
	mine, back := mem[:sectorSize], mem[sectorSize:2*sectorSize]
	for round := range n[1] {
		sector(mine, n[0], round)
		for page := range 2 {
			off := int64(1+page)*pageSize + int64(n[0])*sectorSize
			if _, err := f.WriteAt(mine, off); err != nil {
				return err
			}
			if _, err := f.ReadAt(back, off); err != nil {
				return err
			}
			if !bytes.Equal(mine, back) {
				return fmt.Errorf("part %d of page %d: round %d was lost", n[0], page, round)
			}
		}
	}
	return nil
}
