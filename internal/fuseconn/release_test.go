package fuseconn

import (
	"encoding/binary"
	"slices"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// feedRelease puts a RELEASE in the current buffer, as read(2) would.
func feedRelease(rd *reader, unique, fh uint64) int {
	n := feed(rd, opRelease, fileNode, unique, 0, 0)
	q := in[fuse.ReleaseIn](rd.current.head)
	q.Fh, q.Length = fh, uint32(releaseInSize)
	return n - rwInSize + releaseInSize
}

func released(c *control) []uint64 { return c.slow.tree.(*tree).released }

// A RELEASE is done although control requests are refused, and before those that
// were read earlier.
func TestReleaseIsNotRefused(t *testing.T) {
	rd := newTestReader(t, newStore("plain"), devNull(t))
	for i := range len(rd.control.free) + 5 {
		rd.serveOne(feed(rd, opRead, fileNode, uint64(2*i), 0, 4096))
	}
	var want []uint64
	for i := range uint64(64) {
		rd.serveOne(feedRelease(rd, 10000+2*i, 100+i))
		want = append(want, 100+i)
	}
	if s := rd.stats(); s.Refused != 5 {
		t.Errorf("%+v", s)
	}
	close(rd.control.todo)
	rd.control.loop()
	if got := released(rd.control); !slices.Equal(got, want) {
		t.Errorf("released %v, want %v", got, want)
	}
	if rd.control.own.index.state.Load() != indexAnswered {
		t.Error("the last one seems to be in flight still")
	}
}

func TestReleaseDoesNotAllocate(t *testing.T) {
	rd := newTestReader(t, newStore("plain"), devNull(t))
	if got := testing.AllocsPerRun(1000, func() {
		rd.serveOne(feedRelease(rd, 42, 7))
		select {
		case <-rd.control.releases:
		default:
			t.Fatal("it was not queued")
		}
	}); got != 0 {
		t.Errorf("%v allocations", got)
	}
}

// One that is being done is in flight: a worker that it kills can accuse it.
func TestReleaseInFlight(t *testing.T) {
	rd := newTestReader(t, newStore("plain"), devNull(t))
	x := rd.control.own.index
	rd.serveOne(feedRelease(rd, resent|42, 7))
	if x.state.Load() == indexOpen {
		t.Error("it is in flight before its turn")
	}
	seen := false
	rd.control.slow.tree.(*tree).onRelease = func() { seen = x.state.Load() == indexOpen && x.unique.Load() == 42 }
	rd.control.releaseAll()
	if !seen || x.state.Load() != indexAnswered {
		t.Error("it was not in flight, or still is")
	}
}

// On a ring, RELEASEs may have every entry, of a worker without a free slot. It
// dies, and the next one does each of them once.
func TestLaneReleases(t *testing.T) {
	tl := newTestLane(t)
	first, other := tl.worker(newStore("plain")), newTestLane(t).worker(newStore("plain"))
	for len(first.control.free) > 0 {
		<-first.control.free
	}
	var want []uint64
	for i := range tl.entries {
		tl.give(i, opRelease, fileNode, 0, 0)
		binary.LittleEndian.PutUint64(tl.entries[i].opIn[:], uint64(100+i)) // its handle
		want = append(want, uint64(100+i))
	}
	first.scanned.Store(true)
	other.others = []*lane{first}
	if !other.help() {
		t.Fatal("nothing to help with")
	}
	first.serve()
	if c := first.count.stats(0); c.Refused != 0 || int(first.parked.Load()) != len(tl.entries) || tl.ready[0].Load() != 0 {
		t.Fatalf("%+v, %d parked, %b ready", c, first.parked.Load(), tl.ready[0].Load())
	}
	second := tl.worker(newStore("plain"))
	for i := range tl.entries {
		second.take(i, second)
	}
	second.control.releaseAll()
	if got := released(second.control); !slices.Equal(got, want) {
		t.Errorf("released %v, want %v", got, want)
	}
	for i := range tl.entries {
		if _, errno := tl.status(i); errno != 0 || tl.entries[i].done.Load() != tl.entries[i].given.Load() {
			t.Errorf("entry %d: %v", i, errno)
		}
	}
	if second.parked.Load() != 0 || tl.ready[0].Load() != 1<<len(tl.entries)-1 || len(released(first.control)) != 0 {
		t.Errorf("%d parked, %b ready", second.parked.Load(), tl.ready[0].Load())
	}
}
