package blockdev

import (
	"errors"
	"testing"
	"time"
)

// A walk over slots that were used once and are empty now goes in steps: a check
// that wants the disk quiet has shut the gate before it waits for one.
func TestWalkOfEmptySlotsGoesInSteps(t *testing.T) {
	const size = 4 << 30
	d := newDevice(t, size, testConfig(t))
	k := d.disk.Load()
	for slot := uint64(0); slot < size/PageSize; slot += slotsPerTablePage {
		k.table.ensure(slot)
	}
	write(t, d, stamped(t, 1), size-PageSize)
	steps, visited := uint64(0), []uint64(nil)
	for next := uint64(0); next < k.table.slots(); steps++ {
		was := next
		next = k.walkSome(next, verifyStep, func(slot uint64, _ word) { visited = append(visited, slot) })
		if next-was > scanStep {
			t.Fatalf("a step went from slot %d to %d", was, next)
		}
	}
	if len(visited) != 1 || visited[0] != size/PageSize-1 || steps != size/PageSize/scanStep {
		t.Errorf("visited %v in %d steps", visited, steps)
	}
}

// After a recovery every page is verified, while I/O goes on: damage is found
// before anybody reads it. A reset does not wait for the end.
func TestVerifyAfterRecovery(t *testing.T) {
	const slots = 3000
	cfg := testConfig(t)
	cfg.WriteBehind = 16
	g := newGenerations(t, slots*PageSize, cfg)
	for slot := range int64(slots) {
		page := stamped(t, uint64(slot))
		switch slot % 50 {
		case 0:
			page = incompressible()
		case 1:
			fill(page, uint64(slot)<<32|7, 0)
		}
		write(t, g.d, page, slot*PageSize)
	}
	if done, total, corrupt := g.d.Verified(); done != 0 || total != 0 || corrupt != 0 {
		t.Errorf("a new disk: %d of %d pages verified, %d corrupt", done, total, corrupt)
	}
	k := g.d.disk.Load()
	drain(t, g.d)
	victims := []uint64{17, 100, 2951} // compressed, huge, in the element table
	for i, slot := range victims {
		w := k.table.load(slot)
		switch i {
		case 0:
			k.region.Bytes(k.layout.arena.off+int64(w.place())*16+50, 1)[0] ^= 4
		case 1:
			k.region.Bytes(k.layout.side.off+int64(w.place())/256*8, 1)[0] ^= 4
		case 2:
			k.table.elements[slot] ^= 1 << 40
		}
	}
	close(k.stop)
	k.wg.Wait()
	g.adopt(k)
	for deadline := time.Now().Add(3 * time.Minute); ; time.Sleep(time.Millisecond) {
		done, total, corrupt := g.d.Verified()
		if total != slots {
			t.Fatalf("%d pages are to be verified, want %d", total, slots)
		}
		if done == total {
			if corrupt != int64(len(victims)) {
				t.Errorf("%d pages were found corrupt, want %d", corrupt, len(victims))
			}
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d pages are verified after a minute", done, total)
		}
		write(t, g.d, stamped(t, 5), 5*PageSize)
	}
	for _, slot := range victims {
		if _, err := g.d.ReadAt(make([]byte, PageSize), int64(slot)*PageSize); !errors.Is(err, ErrCorrupt) {
			t.Errorf("slot %d: %v, want ErrCorrupt", slot, err)
		}
		write(t, g.d, stamped(t, slot), int64(slot)*PageSize)
	}
	k = g.d.disk.Load()
	close(k.stop)
	k.wg.Wait()
	g.adopt(k)
	if err := g.d.Reset(); err != nil {
		t.Fatal(err)
	}
	if _, total, _ := g.d.Verified(); total != 0 {
		t.Error("a device without a disk is still being verified")
	}
	g.end()
}
